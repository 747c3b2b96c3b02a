"""
Simulator: Apple, Google and the account API in a process of their own.

One JSON line on standard output shows where everything is, once all
of it listens; on SIGTERM a second line shows what was seen.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from middlewared.simulator.accounts_server import AccountsServer
from middlewared.simulator.answering import Answering
from middlewared.simulator.apple.faults import Behaviour
from middlewared.simulator.apple.server import AppleServer
from middlewared.simulator.certificates import Authority, write_provider_key, write_service_account
from middlewared.simulator.google_http2 import Habits
from middlewared.simulator.google_server import GoogleServer
from middlewared.simulator.http1_server import HttpServer
from middlewared.simulator.record import Record

API_KEY = "simulated-server-key"


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m middlewared.simulator", description=__doc__)
    add = parser.add_argument
    add("--answer-ms", type=float, help="phones answer every call after this delay")
    add("--answer-at", nargs="*", default=[], help="host:port of daemons that take turns")
    add("--silent", default="", help="phones whose token ends in one of these do not answer")
    add(
        "--google-https",
        action="store_true",
        help="Google and the accounts speak https, Google HTTP/2 or HTTP/1.1 as the client offers",
    )
    add("--google-http1", action="store_true", help="Google does not speak HTTP/2")
    return parser.parse_args(arguments)


class World:
    """All simulated servers, as one."""

    def __init__(self, *, reactor: Any, folder: Path, options: argparse.Namespace) -> None:
        self._authority = Authority(folder=folder)
        self._folder = folder
        server = self._authority.server()
        self._client = self._authority.apns_client()
        self._key = write_provider_key(folder)
        self._answering: Answering | None = None
        if options.answer_ms is not None:
            self._answering = Answering(
                reactor=reactor,
                delay_s=options.answer_ms / 1000,
                at=options.answer_at,
                silent=options.silent,
            )
        self._apples = {
            environment: AppleServer(
                reactor=reactor,
                certificate=server,
                client_authority=self._authority.certificate,
                provider_keys=[self._key],
                environment=environment,
                behaviour=Behaviour(validate_headers=False),
                listener=self._answering,
                keep=0,
            )
            for environment in ("production", "sandbox")
        }
        certificate = server if options.google_https else None
        self._google = GoogleServer(
            reactor=reactor,
            certificate=certificate,
            api_keys=[API_KEY],
            listener=self._answering,
            keep=0,
            habits=Habits(validate_headers=False),
            http2=not options.google_http1,
        )
        self._accounts = AccountsServer(
            reactor=reactor, certificate=certificate, numbers_are_accounts=True
        )
        self._servers: list[AppleServer | HttpServer] = [
            *self._apples.values(),
            self._google,
            self._accounts,
        ]

    async def start(self) -> dict[str, Any]:
        """Start all; gives the addresses and files that a configuration needs."""
        for server in self._servers:
            await server.start()
        account = write_service_account(self._folder, token_uri=self._google.token_uri)
        self._google.trust(account)
        return {
            **{f"apns_{name}_url": server.url for name, server in self._apples.items()},
            "apns_key_file": str(self._key.path),
            "apns_key_id": self._key.key_id,
            "apns_team_id": self._key.team_id,
            "service_account": str(account.path),
            "ca_file": str(self._authority.certificate),
            "apns_certificate": str(self._client),
            "google_url": self._google.url,
            "gcm_url": f"{self._google.url}/gcm/send",
            "api_key": API_KEY,
            "accounts_url": self._accounts.url,
        }

    async def stop(self) -> dict[str, Any]:
        """Stop all; gives what was seen."""
        seen: dict[str, Any] = {
            **{name: _summary(server.record) for name, server in self._apples.items()},
            "google": _summary(self._google.record),
            "google_connections": self._google.connections_opened,
            "google_protocols": self._google.protocols,
        }
        if self._answering is not None:
            await self._answering.stop()
            seen["answers"] = self._answering.statuses
        for server in self._servers:
            await server.stop()
        return seen


def _summary(record: Record[Any]) -> dict[str, Any]:
    return {
        "delivered": record.delivered_count,
        "connections": record.connection_count,
        "refused": list(record.refused)[-10:],
        "violations": list(record.violations)[-10:],
    }


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    from twisted.internet import reactor as installed

    reactor: Any = installed
    options = parse_arguments(sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        world = World(reactor=reactor, folder=Path(folder), options=options)

        async def start() -> None:
            try:
                _say(await world.start())
            except BaseException:
                reactor.stop()
                raise

        async def stop() -> None:
            _say(await world.stop())

        reactor.callWhenRunning(lambda: Deferred.fromCoroutine(start()))
        reactor.addSystemEventTrigger("before", "shutdown", lambda: Deferred.fromCoroutine(stop()))
        reactor.run()


def _say(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
