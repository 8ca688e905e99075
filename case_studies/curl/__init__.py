"""How far trained networks are from being gradients, and what that does to an acceptance."""
