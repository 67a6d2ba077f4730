"""Inference hosts: the embedded engine (`embedded/`), SGLang's launcher, and the host agent that applies weights."""
