"""The tests; settings for every runner."""

import os

from hypothesis import settings

EXAMPLES = int(os.environ.get("TEST_EXAMPLES", "100"))
"""How often a property is tested. ./ci.sh lets one of its two runners take fewer."""

# A slow machine is no bug.
settings.register_profile("middlewared", deadline=None, max_examples=EXAMPLES)
settings.load_profile("middlewared")
