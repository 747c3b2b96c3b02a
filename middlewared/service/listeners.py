"""What the daemon serves, and where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from middlewared.config import Config
from middlewared.metrics import Metrics
from middlewared.metrics.exposition import MetricsResource
from middlewared.networks import Network
from middlewared.service.console_parts import ConsoleParts
from middlewared.service.ports import Listener
from middlewared.web.root import Web
from middlewared.web.settings import RouteSet
from middlewared.web.site import internal_site


def choose_listeners(
    clock: Any, config: Config, web: Web, console: ConsoleParts, metrics: Metrics
) -> list[Listener]:
    """The listeners of ``config``; those without an address listen nowhere."""
    http = config.http
    public = RouteSet.PUBLIC if http.pbx_listen else RouteSet.ALL
    resource = MetricsResource(registry=metrics.registry, clock=clock)
    metrics_site = internal_site(resource=resource, clock=clock)

    def trusted_proxies() -> Sequence[Network]:
        return web.settings.current.trusted_proxies

    listeners = (
        ("metrics", "listen", "metrics", config.metrics.listen, metrics_site),
        ("admin", "listen", "admin", config.admin.listen, console.site),
        ("http", "pbx_listen", "pbx", http.pbx_listen, web.site(RouteSet.PBX)),
        ("http", "listen", "http", http.listen, web.site(public)),
    )
    return [Listener(*listener, trusted_proxies) for listener in listeners]
