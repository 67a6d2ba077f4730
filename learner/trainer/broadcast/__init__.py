"""Weights by collective broadcast: the trainer's end of the weight-update groups."""
