"""The reward tilt of a latent diffusion network, and of a Gaussian whose tilt is known."""
