"""Show jobs while they run: a bar, a table, pictures."""
