"""Connections to the outside: TCP endpoints, TLS, the CONNECT proxy, the HTTP client."""
