"""
The peers of the daemon, for demo, tests and benchmarks.

Servers: ``apple`` (APNs), ``google_server`` (OAuth, FCM, GCM), ``accounts_server``; ``http2``
is the HTTP/2 server under the first two, and ``scripts`` orders the faults of all.
Clients: ``phone``, ``pbx``. Credentials: ``certificates``. ``python -m middlewared.simulator``
runs the servers in a process of their own.

Nothing here uses the daemon's own push code, because only an
independent peer finds its faults.
"""
