"""Tracking in one's own video."""
