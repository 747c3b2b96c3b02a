"""The operators' pages, on a listener of their own: why a phone did not ring, and what goes on."""
