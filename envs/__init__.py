"""Environments: game rules, text rendering, prompts and parsing. Adding one: `envs.base` and `envs.registry`."""
