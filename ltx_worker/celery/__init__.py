"""All of the worker that knows Celery: its application, its transport, its one task."""
