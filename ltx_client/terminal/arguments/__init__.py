"""Define the arguments of commands: options, their completion, and defaults from the configuration file."""
