"""
The peers of the daemon, for demo, tests and benchmarks.

Servers: ``apple`` (APNs), ``google_server`` (OAuth, FCM, GCM), ``accounts_server``; ``scripts``
orders their faults. Clients: ``phone``, ``pbx``. Credentials: ``certificates``.
``python -m middlewared.simulator`` runs the servers in a process of their own.

Nothing here uses the daemon's own push code, because only an
independent peer finds its faults.
"""
