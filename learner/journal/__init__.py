"""The journal of a run's trials: the only thing that gateway and trainer share."""
