"""What this machine has and lacks: its parts, its connections, its data."""
