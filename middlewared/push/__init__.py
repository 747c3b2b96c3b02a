"""Waking a device: what is sent, through whom, and what the provider said."""
