"""What runs in SGLang's own environment, started by its path; nothing here is imported by us."""
