"""Probabilities of rare events: guided paths against levels, design points and plain draws."""
