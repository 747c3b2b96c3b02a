"""
What twistd runs: the wiring of the daemon's objects, and the daemon's life.

This room knows all others; only the plugin and the commands know it. Nothing is imported here,
since a command needs little of it.
"""
