"""Environments played without a trained policy: in the terminal, and by scripted random play."""
