"""
``middlewared demo``: a real daemon among simulated peers, and every way a call can end.

The one invariant: it needs nothing but this package, and says so when an outcome differs
from what was to be shown.
"""
