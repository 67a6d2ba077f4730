"""Runs on this machine: their folders, their processes, what a user sees of them."""
