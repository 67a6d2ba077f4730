"""How weights come to a host: a folder on disk, a stream over the run's socket, or the trainer's broadcast.

Each is a *delivery*, as in the setting `inference.delivery`; a host has one for folders, and may have a live one.
"""
