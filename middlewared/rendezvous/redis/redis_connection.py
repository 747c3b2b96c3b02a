"""
One connection to one Redis node, made again whenever it is lost.

A command gets its reply, or fails when the connection goes silent or is lost. While there
is no connection it fails at once; nothing queues for a node that is away.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import txredisapi
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.logger import Logger

from middlewared.backoff import backoff_s
from middlewared.quoting import quoted
from middlewared.rendezvous.redis.lua_scripts import Script
from middlewared.rendezvous.redis.redis_protocol import CommandProtocol, ListenerProtocol
from middlewared.waiting import FairCall, with_fair_timeout

CONNECT_TIMEOUT_S = 1.0
PATIENCE_S = 0.15
FIRST_RETRY_S = 0.13
LONGEST_RETRY_S = 0.67


class LoginRefused(Exception):
    """Redis refused our AUTH; the text holds nothing of what was sent."""


@attrs.frozen
class Login:
    """Our username and password; without a password there is no AUTH."""

    username: str = ""
    password: str = attrs.field(default="", repr=False)

    @property
    def command(self) -> Sequence[str]:
        """The AUTH command; empty: none is sent."""
        if not self.password:
            return ()
        return ("AUTH", *([self.username] if self.username else []), self.password)


class RedisConnection:
    """
    A connection that is made again whenever it is lost.

    :param name: its name in the log.
    :param endpoint: called for each attempt to connect.
    :param greeting: the first commands on each new connection: PING, or SUBSCRIBE.
    :param received: called with each published message; None: it takes commands.
    :param came_up: called after each greeting.
    :param went_down: called when a connection that was up is lost.
    :param failed: called with the reason why an attempt to connect failed.
    :ivar in_trouble: whether a command has failed and none has succeeded since.
    """

    log = Logger()

    def __init__(
        self,
        *,
        name: str,
        clock: Any,  # deferLater asks for Twisted's zope interface
        endpoint: Callable[[], IStreamClientEndpoint],
        login: Login,
        greeting: Sequence[Sequence[str]] = (("PING",),),
        received: Callable[[str], None] | None = None,
        came_up: Callable[[], None] = lambda: None,
        went_down: Callable[[], None] = lambda: None,
        failed: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        self._name = name
        self._clock = clock
        self._endpoint = endpoint
        self._login = login
        self._greeting = greeting
        self._received = received
        self._came_up = came_up
        self._went_down = went_down
        self._failed = failed
        self._protocol: Any = None
        self._running: Deferred[None] | None = None
        self._stopping = False
        self.in_trouble = False
        self._patience: FairCall | None = None

    @property
    def connected(self) -> bool:
        """Whether there is a connection that was greeted and not lost since."""
        return self._protocol is not None

    def start(self) -> None:
        """Connect, and stay connected until :meth:`stop`."""
        if self._running is None:
            self._stopping = False
            self._running = Deferred.fromCoroutine(self._run())

    async def stop(self) -> None:
        """Close the connection for good; returns when nothing is open."""
        running, self._running = self._running, None
        self._stopping = True
        self.note_success()
        if running is not None:
            running.cancel()
            await running

    def note_failure(self) -> bool:
        """
        A command has failed.

        :return: whether to wait for the node: False when all commands to it have failed for
            :data:`PATIENCE_S`.
        """
        if not self.in_trouble and not self._stopping:
            self.in_trouble = True
            self._patience = FairCall(self._clock, PATIENCE_S, lambda: None)
        return self._patience is not None and self._patience.active()

    def note_success(self) -> None:
        """A command has succeeded, or the connection is new."""
        self.in_trouble = False
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    async def execute(self, *command: str) -> Any:
        """
        Send one command.

        :raises txredisapi.ConnectionError: not connected, or the connection was lost or went
            silent; the command may have run.
        :raises txredisapi.ResponseError: Redis refused it.
        """
        if self._protocol is None:
            raise txredisapi.ConnectionError("not connected")
        return await self._protocol.execute_command(*command)

    async def run(
        self, script: Script, keys: Sequence[str], args: Sequence[str], *, asking: bool = False
    ) -> Any:
        """Run a script; ``asking`` precedes it with ASKING. Raises like :meth:`execute`."""
        operands = (str(len(keys)), *keys, *args)
        try:
            return await self._send(("EVALSHA", script.sha1, *operands), asking)
        except txredisapi.ResponseError as error:
            if not str(error).startswith("NOSCRIPT"):
                raise
        return await self._send(("EVAL", script.text, *operands), asking)

    async def _send(self, command: Sequence[str], asking: bool) -> Any:
        if not asking:
            return await self.execute(*command)
        # Both are written before anything else can be: ASKING holds for the next command.
        permission = Deferred.fromCoroutine(self.execute("ASKING"))
        permission.addErrback(lambda _: None)  # the command then fails as well
        return await self.execute(*command)

    async def _run(self) -> None:
        """Connect, serve until the connection is lost, wait a little, again."""
        failures = 0
        while not self._stopping:
            try:
                protocol = await self._connect()
                failures = 0
                await self._serve(protocol)
            except Exception as error:  # the next attempt may succeed
                if self._stopping:  # the cancellation, as one of many exceptions
                    return
                self._failed(error)
                if failures == 0:  # the next ones are the same
                    self.log.warn("redis {name}: {error}", name=self._name, error=_reason(error))
                failures += 1
            pause_s = backoff_s(failures + 1, first_s=FIRST_RETRY_S, longest_s=LONGEST_RETRY_S)
            with contextlib.suppress(CancelledError):
                await deferLater(self._clock, pause_s)

    async def _connect(self) -> Any:
        """A connection that was logged in and greeted."""
        factory = Factory.forProtocol(self._new_protocol)
        factory.noisy = False
        endpoint: Any = self._endpoint()
        connecting = endpoint.connect(factory)
        protocol: Any = await with_fair_timeout(connecting, CONNECT_TIMEOUT_S, self._clock)
        try:
            for command in (self._login.command, *self._greeting):
                if command:
                    await _greet(protocol, command)
        except BaseException:
            await _aborted(protocol)
            raise
        return protocol

    def _new_protocol(self) -> Any:
        if self._received is None:
            return CommandProtocol(clock=self._clock, name=self._name)
        return ListenerProtocol(clock=self._clock, name=self._name, received=self._received)

    async def _serve(self, protocol: Any) -> None:
        """Be connected until the connection is lost."""
        lost: Deferred[object] = protocol.whenDisconnected()
        if not protocol.connected:
            return
        self._protocol = protocol
        self.note_success()
        self.log.info("redis {name}: connected", name=self._name)
        self._came_up()
        try:
            await lost
            self.log.info("redis {name}: connection lost", name=self._name)
            self._went_down()
        finally:
            self._protocol = None
            await _aborted(protocol)


async def _aborted(protocol: Any) -> None:
    """Close without waiting for the peer, which may have stopped."""
    if protocol.connected:
        lost: Deferred[object] = protocol.whenDisconnected()
        protocol.transport.abortConnection()
        await lost


async def _greet(protocol: Any, command: Sequence[str]) -> None:
    try:
        await protocol.execute_command(*command)
    except txredisapi.ResponseError as error:
        if command[0] != "AUTH":
            raise
        # A server where AUTH was renamed repeats its arguments, and so the password.
        code = str(error).partition(" ")[0]
        known = code in ("ERR", "WRONGPASS", "NOPERM", "NOAUTH", "LOADING", "BUSY")
        raise LoginRefused(f"AUTH failed: {code if known else 'unknown error'}") from None


def _reason(error: Exception) -> str:
    """What went wrong, cut and quoted; a LoginRefused holds no text of Redis."""
    return f"{type(error).__name__}: {quoted(str(error), 200)}"
