"""
HTTP requests with the daemon's own client, recording the answers.

The daemon's providers reduce answers to results; an operator needs the details (a clock that is
wrong, a service that is not enabled).
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from twisted.internet.error import ConnectError, DNSLookupError

from middlewared.cli.check.check_result import unreachable
from middlewared.cli.check.handshake import explain_distrust
from middlewared.clock import Clock
from middlewared.outgoing.interface import HttpClient, HttpResponse, OutgoingFailed, TcpEndpoints


class RecordingClient:
    """
    Wraps another :class:`~middlewared.outgoing.interface.HttpClient` and records its answers.

    :ivar reply: the last request's answer; None when there was none.
    :ivar failure: why there was none.
    """

    def __init__(self, client: HttpClient) -> None:
        self._client = client
        self.reply: HttpResponse | None = None
        self.failure: OutgoingFailed | None = None

    async def request(self, method: str, url: str, **more: Any) -> HttpResponse:
        """See the interface."""
        self.reply = self.failure = None
        try:
            self.reply = await self._client.request(method, url, **more)
        except OutgoingFailed as error:
            self.failure = error
            raise
        return self.reply

    async def close(self) -> None:
        """See the interface."""
        await self._client.close()


async def explain_no_answer(
    failure: OutgoingFailed, url: str, endpoints: TcpEndpoints, clock: Clock
) -> str:
    """Why the host of ``url`` did not answer, naming it, in words for an operator."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    words = str(failure).rstrip(".")
    if isinstance(failure.__cause__, ConnectError | DNSLookupError):
        words = unreachable(failure.__cause__)
    elif parts.scheme == "https" and "certificate verify failed" in words:
        tcp = endpoints(host, parts.port or 443)
        words = await explain_distrust(tcp, host, clock) or words
    return f"{parts.netloc}: {words}"
