"""What a laptop needs: the `ltx` command, the Python API, and the wire contract."""
