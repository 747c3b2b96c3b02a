"""What pytest has no option for."""

import gc

from xdist.workermanage import NodeManager  # type: ignore[import-untyped]

# A worker stops its servers at its end and saves its coverage last. After 10 s, the default,
# it was killed, and all that its tests had covered was lost.
NodeManager.EXIT_TIMEOUT = 120


def pytest_collection_finish() -> None:
    """Leave what was imported to no collection of garbage: a quarter of a second each time."""
    gc.collect()
    gc.freeze()
