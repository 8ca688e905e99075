"""Scripts that train the shipped networks."""
