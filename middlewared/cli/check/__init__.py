"""The checks of ``check --online``, one module for each external service."""
