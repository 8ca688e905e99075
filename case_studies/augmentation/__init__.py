"""Imbalanced training sets, evened out by weighted draws of a digits prior."""
