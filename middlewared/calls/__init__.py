"""The heart: one call from request to outcome."""
