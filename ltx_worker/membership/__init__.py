"""A worker's identity, and how the farm knows that it is alive."""
