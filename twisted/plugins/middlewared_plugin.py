"""Makes ``twistd middlewared`` known; everything else is in :mod:`middlewared.service`."""

from twisted.application.service import ServiceMaker

middlewared = ServiceMaker(
    "middlewared",
    "middlewared.service",
    "Wake a sleeping phone for an incoming VoIP call.",
    "middlewared",
)
