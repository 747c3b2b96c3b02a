"""The device registry in PostgreSQL."""
