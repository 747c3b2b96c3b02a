"""The tests; settings for every runner."""

from hypothesis import settings

# A slow machine is no bug.
settings.register_profile("middlewared", deadline=None)
settings.load_profile("middlewared")
