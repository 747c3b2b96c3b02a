"""
``middlewared demo``: a real daemon among simulated peers, and every way a call can end.

It needs nothing but this package, and reports an outcome that differs
from what was to be shown.
"""
