"""Score priors inside NumPyro models."""
