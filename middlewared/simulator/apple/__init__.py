"""
Simulator: Apple's push service, strict about every rule of its pages.

``server`` is the whole, ``apple_connection`` one HTTP/2 connection, ``validation`` checks a push,
``faults`` are the troubles that a test can order.
"""
