"""Which worker this is, and how the farm knows that it is alive."""
