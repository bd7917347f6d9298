"""Threads that never end for an error, that are watched, and that wait out what is away."""
