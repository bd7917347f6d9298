"""Define the messages of the farm's channel, which tell programs what changed."""
