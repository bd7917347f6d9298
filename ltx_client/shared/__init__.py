"""What clients and workers share besides the wire: settings, the configuration file, files of their own."""
