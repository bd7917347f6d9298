"""All that knows Celery and kombu and is not the worker's own: its settings, its transport, its messages."""
