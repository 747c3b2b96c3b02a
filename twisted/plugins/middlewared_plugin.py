"""Makes ``twistd middlewared`` known; everything else is in :mod:`middlewared.service.options`."""

from twisted.application.service import ServiceMaker

middlewared = ServiceMaker(
    "middlewared",
    "middlewared.service.options",
    "Wake a sleeping phone for an incoming VoIP call.",
    "middlewared",
)
