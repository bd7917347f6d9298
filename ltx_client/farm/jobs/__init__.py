"""Prepare, check, forecast and explain jobs, and read their records."""
