"""How weights reach an inference host: a folder on disk, a stream over the run's socket, a broadcast by the trainer."""
