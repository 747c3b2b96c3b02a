"""Connections to the outside: TLS trust, the CONNECT proxy, the HTTP client."""
