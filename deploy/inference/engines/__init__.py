"""Inference servers as their host handles them: starting one, joining one, its administrative HTTP."""
