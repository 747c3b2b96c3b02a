"""The device registry: which app rings for which account."""
