"""The device registry in SQLite."""
