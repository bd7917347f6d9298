"""Define the wire contract between clients and workers: key names, job records, events, state."""

PROTOCOL_VERSION = 1
