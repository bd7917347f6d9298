"""What Prometheus may know of a worker."""
