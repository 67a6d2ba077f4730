"""The learner: the gateway that admits, leases and journals trials, and the trainer that learns from them."""
