"""The bodies of the commands of `ltx-worker`; `ltx_worker.cli` has their options, and imports them late."""
