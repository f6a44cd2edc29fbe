"""The networks: trunk, neck, correlation, head; plain arguments in, predictions out, no device and no configuration."""
