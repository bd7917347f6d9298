"""Tell a person, before a job is sent, what it needs, why it will wait, and what of a prompt is not read."""
