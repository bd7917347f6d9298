"""The commands about single jobs, one a module."""
