"""Expected shortfall of a score network of daily returns, and back-tests of its forecasts."""
