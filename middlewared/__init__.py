"""
middlewared wakes a sleeping phone for an incoming call.

Read the rooms in the order in which a call passes through them:

1. ``web``         reads the PBX's request and holds it
2. ``calls``       rings: finds the device, pushes, waits
3. ``devices``     knows the device of each account
4. ``push``        wakes the device through Apple or Google
5. ``rendezvous``  brings the phone's answer to the call that waits for it
6. ``web``         replies to the held request with ``status=ACK``

They use ``accounts`` (who may register a device), ``outgoing`` (HTTP and TLS to the
outside), ``logs``, ``metrics`` and the modules beside this one. ``config`` reads the ini file,
``service`` joins all parts to a daemon, ``cli`` has the commands. ``demo`` and the tests talk
to the ``simulator``. docs/design.md has the picture, the glossary and the decisions.
"""

__version__ = "0.1.0"
