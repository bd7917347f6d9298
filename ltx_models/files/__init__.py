"""Find, download, lock, identify and write files: those of models, and those that people name."""
