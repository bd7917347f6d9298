"""Contain the commands about the farm and this machine, one a module."""
