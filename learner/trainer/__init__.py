"""The trainer process: batches in, policy versions out."""
