"""
Simulator: the HTTP/2 server that Apple and Google have in common.

``frame_steps`` are the troubles that can be ordered, ``h2_server`` is h2 set up as a server,
``served_stream`` one request, ``served_connection`` one connection, ``greeter`` meets new ones.
"""
