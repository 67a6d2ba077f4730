"""Runs on this machine: their configuration, their folders, their processes, what a user sees of them."""
