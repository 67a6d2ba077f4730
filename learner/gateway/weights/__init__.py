"""The learner's side of the weights' journey: announced to hosts, served to those without a shared disk."""
