"""The tests; settings for every runner."""

import os

from hypothesis import settings
from twisted.trial.unittest import TestCase

EXAMPLES = int(os.environ.get("TEST_EXAMPLES", "100"))
"""How often a property is tested."""

# A slow machine is no bug.
settings.register_profile("middlewared", deadline=None, max_examples=EXAMPLES)
settings.load_profile("middlewared")

# Only guards against hanging; two minutes, trial's own, are not enough for a busy machine.
TestCase.timeout = 300  # type: ignore[attr-defined]
