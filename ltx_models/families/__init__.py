"""Data: the variants of the model, and their architectures."""
