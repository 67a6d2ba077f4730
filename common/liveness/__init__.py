"""Whether processes and their event loops are alive: restarts that are given back, lag, and open connections."""
