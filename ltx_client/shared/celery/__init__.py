"""Contain everything outside the worker that uses Celery and kombu: settings, transport and messages."""
