"""Whether a model folder can be trained and served, tried in a process that loads torch: its callers do not."""
