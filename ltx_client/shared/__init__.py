"""Contain what clients and workers share besides the wire: settings, configuration file, broker, storage."""
