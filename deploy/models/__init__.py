"""Models for a run: the configured folder, or a pocket model that was taught the output format."""
