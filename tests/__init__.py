"""The tests; what stands here holds under every runner."""

from hypothesis import settings

# A slow machine is no bug.
settings.register_profile("middlewared", deadline=None)
settings.load_profile("middlewared")
