"""One job's life on one worker: from its claim to its video, or to whatever else ends it."""
