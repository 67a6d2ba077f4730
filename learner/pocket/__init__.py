"""The pocket model, small enough for one CPU thread, and the supervised training of its warm start."""
