"""The engine: a child process that owns MLX, its supervisor in the worker, and the messages between them."""
