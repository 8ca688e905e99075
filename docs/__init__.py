"""Documentation; a package so that its scripts run as ``python -m docs.scripts.name``."""
