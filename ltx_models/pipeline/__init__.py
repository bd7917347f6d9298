"""From a request to frames: which models are in memory when, and what they are given."""
