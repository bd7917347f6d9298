"""What commands are given: options, their completion, and the defaults of a configuration file."""
