"""What a worker serves over HTTP: metrics and finished videos."""
