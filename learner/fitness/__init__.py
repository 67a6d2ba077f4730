"""Whether a model folder is one that lamer can train and serve: for trainer, embedded engine and commands."""
