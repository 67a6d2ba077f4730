"""The gateway process: one socket that all other processes talk to. No torch."""
