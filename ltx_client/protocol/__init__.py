"""The wire contract between clients and workers: key names, job records, events, state. Shared by both sides."""

PROTOCOL_VERSION = 1
