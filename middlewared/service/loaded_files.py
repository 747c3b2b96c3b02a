"""
Files that were loaded: one whose content is the same is not parsed again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


class LoadedFiles:
    """
    What was made of each file at its last load, with the digest of its content.

    It is used by one thread at a time. :meth:`forget_unused` bounds it by what is configured.
    """

    def __init__(self) -> None:
        self._loaded: dict[Hashable, tuple[bytes, Any]] = {}
        self._used: set[Hashable] = set()

    def load(self, path: Path, load: Callable[[], T], *key: Hashable) -> T:
        """
        The result of ``load``, or of an earlier one if the file is the same as then.

        :param key: what the result depends on apart from the content of the file.
        :raises Exception: what ``load`` raises, also for a file that cannot be read.
        """
        name = (path, *key)
        self._used.add(name)
        try:
            digest = sha256(path.read_bytes()).digest()
        except OSError:
            return load()
        known, content = self._loaded.get(name, (b"", None))
        if known != digest:
            content = load()
            self._loaded[name] = digest, content
        result: T = content
        return result

    def forget_unused(self) -> None:
        """Forget what was not asked for since the last time."""
        self._loaded = {key: self._loaded[key] for key in self._used & self._loaded.keys()}
        self._used.clear()
