"""The client's scripts, which run on the broker."""
