"""The account backends that validate an app's credentials."""
