"""Provide the Python API: everything that the `ltx` command does, without a terminal."""
