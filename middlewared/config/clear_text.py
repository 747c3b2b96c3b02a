"""
Whether a password of ours goes over a network in clear.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from itertools import zip_longest

from psycopg2.extensions import parse_dsn

from middlewared.config.values import Config

# libpq's other modes, prefer (its default) among them, go on without TLS.
_CERTAIN_TLS = {"require", "verify-ca", "verify-full"}


def clear_passwords(config: Config) -> Iterator[tuple[str, str, str]]:
    """Each setting that lets a password leave this host without TLS: section, key and what."""
    if config.database.sqlite_file is None and _to_postgresql(parse_dsn(config.database.url)):
        yield (
            "database",
            "url",
            "the password may go over the network without TLS; add sslmode=verify-full,"
            " or sslmode=require",
        )
    redis = config.redis
    if redis.password and not redis.tls and not all(loopback(host) for host, _ in redis.nodes):
        yield "redis", "tls", "the password goes over the network in clear; set tls = yes"


def _to_postgresql(given: Mapping[str, str]) -> bool:
    """Whether libpq, with these parameters, may send a password over a network in clear."""
    if not (given.get("password") or given.get("passfile")):
        return False
    if given.get("sslmode") in _CERTAIN_TLS:
        return False
    # libpq connects to the address when there is one; the name then only says who it is.
    names, addresses = given.get("host", "").split(","), given.get("hostaddr", "").split(",")
    pairs = zip_longest(addresses, names, fillvalue=addresses[0])
    return not all(_stays_here(address or name) for address, name in pairs)


def _stays_here(target: str) -> bool:
    """Whether it is loopback or a unix socket, which it is too when nothing is named."""
    return not target or target.startswith(("/", "@")) or loopback(target)


def loopback(host: str) -> bool:
    """Whether ``host`` is this machine, by its address or as localhost."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
