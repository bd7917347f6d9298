"""The commands of `ltx-worker` that concern its service, and its doctor."""
