"""Contain the checks that doctors of clients and workers have in common, and print their findings."""
