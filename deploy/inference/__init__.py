"""Inference hosts: the agent, how servers are started, and the embedded engine."""
