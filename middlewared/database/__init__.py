"""The connections to SQLite and PostgreSQL and their schema, for the rooms that store rows."""

from __future__ import annotations

from typing import Any, TypeAlias

Row: TypeAlias = tuple[Any, ...]
"""The values of one row, in the order of the columns that its statement names."""
