"""The commands about batches, one a module."""
