"""Checks before a search spends GPU-hours, and what it will cost."""
