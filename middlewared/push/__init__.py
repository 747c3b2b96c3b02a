"""Waking devices: what is sent, by which provider, and with which result."""
