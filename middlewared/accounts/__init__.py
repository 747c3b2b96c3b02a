"""The account backends that judge an app's credentials."""
