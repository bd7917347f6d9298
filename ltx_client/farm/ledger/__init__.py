"""Run the client's scripts on the broker."""
