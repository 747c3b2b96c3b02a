"""The console script ``middlewared``: what an operator does beside running the daemon."""
