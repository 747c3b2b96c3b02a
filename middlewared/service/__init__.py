"""
What twistd runs: the wiring of all parts, and the daemon's life.

The one invariant: this room knows all others, and no other knows it.
"""

from middlewared.service.options import Options, makeService

__all__ = ["Options", "makeService"]
