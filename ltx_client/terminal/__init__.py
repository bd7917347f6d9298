"""Define how the `ltx` command looks: what it prints, in a terminal and in a pipe."""
