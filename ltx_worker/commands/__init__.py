"""What the commands of `ltx-worker` do. Their options are in `ltx_worker.cli`, which imports these late."""
