"""LTX-Video in MLX: a prompt becomes frames. Knows nothing of jobs, Redis or Celery."""
