"""The policy as a torch module, and how samples are laid out for it."""
