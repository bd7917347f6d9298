"""Turn a request into frames: which models are in memory when, and what they are given."""
