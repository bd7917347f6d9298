"""The HTTP server of a worker, for finished videos."""
