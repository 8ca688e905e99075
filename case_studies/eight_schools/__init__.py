"""Eight schools with a learned prior on the effects."""
