"""Contain the commands about single jobs, one a module."""
