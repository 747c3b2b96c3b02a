"""
Checking that phones can resolve the host of ``response_api``.

The name is resolved by this machine; whether phones see the same is for the operator to know.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from twisted.internet.defer import TimeoutError

from middlewared.cli.check.check_result import CheckResult, ok, warning, wrong
from middlewared.database.connection_parameters import resolve_name

LOOK_UP_S = 5.0


async def check_response_api(url: str, reactor: Any) -> CheckResult:
    """The addresses of the host in ``url``."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        addresses = await _addresses(host, reactor)
    except TimeoutError:
        return wrong(f"{host}: the name server does not answer within {LOOK_UP_S:.0f} s")
    if not addresses:
        return wrong(
            f"{host}: the name is not known: phones cannot answer; correct response_api or the DNS"
        )
    warnings = []
    if parts.scheme != "https":
        warnings.append("is http: answers can be read and forged in transit")
    shown = ", ".join(addresses[:3]) + (" ..." if len(addresses) > 3 else "")
    text = f"{host} is {shown}" if shown != host else host
    if not all(ip_address(each.partition("%")[0]).is_global for each in addresses):
        text += ", which phones on the Internet cannot reach"
        return warning("; ".join([*warnings, text]))
    return ok(text, warnings)


async def _addresses(host: str, reactor: Any) -> list[str]:
    try:
        return [str(ip_address(host))]
    except ValueError:
        return list(dict.fromkeys(await resolve_name(reactor, host, LOOK_UP_S)))
