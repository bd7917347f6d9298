"""Contain the commands about batches, one a module."""
