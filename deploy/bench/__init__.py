"""Benchmarks: the rollout schedules against a paced server, and the embedded engine against transformers' own."""
