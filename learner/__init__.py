"""The learner: journal, groups and weights on one side, returns, advantages, loss and optimizer on the other."""
