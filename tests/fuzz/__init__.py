"""Fuzzing: all that this farm reads and did not write just now, wrong in every way that hypothesis thinks of.

`pytest tests/fuzz --fuzz-inputs 10000` is the full campaign; how many were taken and refused is printed at the end.
"""
