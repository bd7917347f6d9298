"""What a doctor looks at that clients and workers have in common, and how its findings are shown."""
