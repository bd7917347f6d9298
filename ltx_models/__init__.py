"""Render LTX-Video in MLX: a prompt becomes frames. This package knows nothing of jobs, Redis or Celery."""

from ltx_models.gpu_environment import set_gpu_environment

set_gpu_environment()  # before any module of this package imports MLX
