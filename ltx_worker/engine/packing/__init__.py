"""Arrays as bytes: what engines leave on the broker and in the storage for others."""
