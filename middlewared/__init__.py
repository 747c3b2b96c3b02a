"""
middlewared wakes a sleeping phone for an incoming call.

A call's way through the code, one room after the other:

1. ``web``         reads the PBX's request and holds it
2. ``calls``       rings: finds the device, pushes, waits
3. ``devices``     tells which app rings for the account
4. ``push``        wakes the app through Apple or Google
5. ``rendezvous``  brings the phone's answer to the call that waits for it
6. ``web``         answers the held request ``status=ACK``

``service`` is the one place where these parts are wired together.
"""

__version__ = "0.1.0"
