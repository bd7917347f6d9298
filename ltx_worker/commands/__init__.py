"""The commands of `ltx-worker` but for `start`, and what its doctor looks at."""
