"""Search for the tracker's settings."""
