"""The commands of ``middlewared``, and the client that reaches the running daemon."""
