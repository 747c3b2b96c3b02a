"""An HTTP/2 client for pushes (RFC 9113): many small requests over a few warm connections."""
