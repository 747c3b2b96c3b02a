"""
Checking Redis for everything that a daemon needs.

Only one key and one message are written, under our own prefix and a random name, and the key
is deleted again (or expires after a few seconds).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import txredisapi
from twisted.internet.defer import Deferred, TimeoutError, gatherResults
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.python.failure import Failure

from middlewared.cli.check.check_result import CheckResult, ok, wrong
from middlewared.cli.check.explanations import CLOCK_TOLERANCE_S, agreeing, skew, unreachable
from middlewared.cli.check.handshake import Handshake, explain_distrust
from middlewared.clock import wall_clock
from middlewared.config import RedisSettings
from middlewared.errors import MiddlewaredError
from middlewared.outgoing.interface import TcpEndpoints
from middlewared.outgoing.tls import ClientTLS
from middlewared.quoting import quoted
from middlewared.rendezvous.redis.cluster_slots import Node, SlotMap, slot_of
from middlewared.rendezvous.redis.lua_scripts import Script
from middlewared.rendezvous.redis.records import PREFIX
from middlewared.rendezvous.redis.redis_connection import Login, LoginRefused, RedisConnection
from middlewared.service.implementations import redis_tls
from middlewared.waiting import with_fair_timeout

LIMIT_S = 3.0
"""For each step at a node: connecting (which has its own, shorter limit) or a reply."""

KEY_MS = "5000"
_ACL = "see the ACL in docs/operating.md"
_COMMAND = re.compile(r"the '([a-z|]+)' command")

# All commands of the daemon's scripts, so that a missing permission shows here.
EVERYTHING = Script(
    """
local call, key = redis.call, KEYS[1]
call('HSET', key, 'field', 'value')
call('PEXPIRE', key, ARGV[1])
call('HGET', key, 'field')
call('HEXISTS', key, 'field')
call('HKEYS', key)
call('PTTL', key)
call('HDEL', key, 'field')
call('SET', key, 'value', 'PX', ARGV[1])
call('GET', key)
call('EXISTS', key)
call('DEL', key)
return call('PUBLISH', ARGV[2], ARGV[3])
"""
)

# What Redis's error codes mean and what to do.
_MEANING = {
    "NOAUTH": "it asks for a password: set password",
    "WRONGPASS": "username or password is wrong",
    "READONLY": "it is a replica and accepts no writes: name the master in nodes",
    "OOM": "its memory is full and it accepts no writes: raise maxmemory",
    "MISCONF": "it cannot save to its disk and accepts no writes",
    "MOVED": "it is a node of a cluster: set cluster = yes",
    "LOADING": "it is loading its data: try again in a minute",
    "CLUSTERDOWN": "its cluster is down: see CLUSTER INFO",
}


class NodeUnusable(MiddlewaredError):
    """A node cannot be used; the text explains why and what to do."""


async def check_redis(redis: RedisSettings, endpoints: TcpEndpoints, reactor: Any) -> CheckResult:
    """Check the one server, or the masters of the cluster."""
    login = Login(redis.username, redis.password)
    tls = redis_tls(redis) if redis.tls else None

    def make(node: Node) -> _NodeCheck:
        return _NodeCheck(reactor, endpoints, login, tls, node)

    if redis.cluster:
        return await _cluster(redis.nodes, make)
    (node,) = redis.nodes
    try:
        ahead_s = await make(node).write_and_publish(f"{PREFIX}check:{secrets.token_hex(8)}")
    except NodeUnusable as error:
        return wrong(f"{_name(node)}: {error}")
    return ok(
        f"{_name(node)}, written, messages arrive{_clock([ahead_s])}", _skews({node: ahead_s})
    )


async def _cluster(seeds: Sequence[Node], make: Callable[[Node], _NodeCheck]) -> CheckResult:
    slots = SlotMap()
    missed: list[str] = []
    for seed in seeds:
        try:
            slots.replace(await make(seed).slots(), seed)
            break
        except NodeUnusable as error:
            missed.append(f"{_name(seed)}: {error}")
    else:
        return wrong("; ".join(missed))
    masters = sorted(slots.masters)
    answers: list[float | NodeUnusable | None] = await gatherResults(
        [Deferred.fromCoroutine(_master(make(node), _key_at(slots, node))) for node in masters],
        consumeErrors=True,
    )
    faults = [
        f"{_name(node)}: {answer}"
        for node, answer in zip(masters, answers, strict=True)
        if isinstance(answer, NodeUnusable)
    ]
    if not slots.complete:
        faults.append("some slots have no master, calls with those keys are lost: see CLUSTER INFO")
    if faults:
        return wrong("; ".join(faults))
    clocks = {
        node: answer
        for node, answer in zip(masters, answers, strict=True)
        if not isinstance(answer, NodeUnusable)
    }
    return ok(
        f"{len(masters)} masters cover all slots, written, messages arrive"
        f"{_clock(list(clocks.values()))}",
        [*missed, *_skews(clocks)],
    )


async def _master(node: _NodeCheck, key: str) -> float | NodeUnusable | None:
    try:
        return await node.write_and_publish(key)
    except NodeUnusable as error:
        return error


def _key_at(slots: SlotMap, node: Node) -> str:
    """A random key in a slot of ``node``."""
    while True:
        key = f"{PREFIX}check:{secrets.token_hex(8)}"
        if slots.master_of(slot_of(key)) == node:
            return key


@attrs.define
class _NodeCheck:
    """Checks one server, over connections that are closed after each step."""

    reactor: Any
    endpoints: TcpEndpoints
    login: Login = attrs.field(repr=False)
    tls: ClientTLS | None
    node: Node
    handshake: Handshake | None = None
    connections: list[RedisConnection] = attrs.field(factory=list)

    async def slots(self) -> Any:
        """What CLUSTER SLOTS replies. :raises NodeUnusable: it does not."""
        try:
            connection = await self._opened()
            return await self._reply(connection.execute("CLUSTER", "SLOTS"))
        finally:
            await self._close()

    async def write_and_publish(self, key: str) -> float | None:
        """
        Write and delete ``key``, publish and receive a message.

        :return: how far its clock is ahead of ours; None if we may not read it.
        :raises NodeUnusable: a step fails.
        """
        channel, word = key, secrets.token_hex(8)
        arrived: Deferred[str] = Deferred()

        def received(message: str) -> None:
            if message == word and not arrived.called:
                arrived.callback(message)

        try:
            connection = await self._opened()
            await self._reply(connection.execute("SET", key, "value", "PX", KEY_MS))
            await self._reply(connection.execute("DEL", key))
            await self._reply(connection.run(EVERYTHING, [key], [KEY_MS, channel, word]))
            await self._opened(greeting=[("SUBSCRIBE", channel)], received=received)
            await self._reply(connection.execute("PUBLISH", channel, word))
            try:
                await with_fair_timeout(arrived, LIMIT_S, self.reactor)
            except TimeoutError:
                raise NodeUnusable(
                    "a published message does not arrive: is SUBSCRIBE blocked?"
                ) from None
            return await self._ahead_s(connection)
        finally:
            await self._close()

    async def _ahead_s(self, connection: RedisConnection) -> float | None:
        """None without permission for TIME, which the daemon does not need."""
        before = wall_clock()
        try:
            seconds, micros = await connection.execute("TIME")
        except (txredisapi.RedisError, ValueError, TypeError):
            return None
        return int(seconds) + int(micros) / 1e6 - (before + wall_clock()) / 2

    async def _opened(self, **more: Any) -> RedisConnection:
        """A connection that is logged in and ready. :raises NodeUnusable: why there is none."""
        outcome: Deferred[None] = Deferred()

        def end(result: Failure | None) -> None:
            if not outcome.called:
                outcome.callback(result)

        # In the next iteration: a connection cannot be stopped from its own callbacks.
        def up() -> None:
            self.reactor.callLater(0, end, None)

        def failed(error: Exception) -> None:
            self.reactor.callLater(0, end, Failure(error))

        connection = RedisConnection(
            name=_name(self.node),
            clock=self.reactor,
            endpoint=self._endpoint,
            login=self.login,
            came_up=up,
            failed=failed,
            **more,
        )
        self.connections.append(connection)
        connection.start()
        try:
            await with_fair_timeout(outcome, LIMIT_S, self.reactor)
        except Exception as error:  # of TCP, TLS, the login or the greeting
            raise NodeUnusable(await self._why_not_open(error)) from error
        return connection

    async def _reply(self, command: Any) -> Any:
        replying: Deferred[Any] = Deferred.fromCoroutine(command)
        try:
            return await with_fair_timeout(replying, LIMIT_S, self.reactor)
        except (txredisapi.RedisError, TimeoutError) as error:
            raise NodeUnusable(self._why(error)) from error

    def _endpoint(self) -> IStreamClientEndpoint:
        endpoint = self.endpoints(*self.node)
        if self.tls is None:
            return endpoint
        self.handshake = Handshake(self.tls(self.node[0]))
        return self.handshake.over(endpoint)

    async def _why_not_open(self, error: Exception) -> str:
        """Why there is no connection; a TLS failure shows as a lost connection."""
        if self.handshake is None or not isinstance(error, txredisapi.ConnectionError):
            return self._why(error)
        if self.handshake.finished:
            return "it closes the connection: does it require another client certificate?"
        why = await explain_distrust(self.endpoints(*self.node), self.node[0], self.reactor)
        return why or "no TLS: does it use TLS on that port?"

    def _why(self, error: Exception) -> str:
        if isinstance(error, LoginRefused):
            if str(error).endswith("ERR"):
                return "AUTH is refused: does it have a password, and this username?"
            return _meaning(str(error).rpartition(" ")[2]) or str(error)
        if isinstance(error, txredisapi.ResponseError):
            return _refusal(str(error))
        if isinstance(error, txredisapi.ConnectionError):
            return "it closes the connection: does it require TLS (tls = yes)?"
        if isinstance(error, TimeoutError):
            return "no connection or reply in time"
        return unreachable(error)

    async def _close(self) -> None:
        connections, self.connections = self.connections, []
        for connection in connections:
            await connection.stop()


def _meaning(code: str) -> str | None:
    return _MEANING.get(code)


def _refusal(text: str) -> str:
    """What Redis refused, in our words if we have any, otherwise in its own."""
    if denied := _COMMAND.search(text):
        return f"permission +{denied[1]} is missing: {_ACL}"
    code = text.partition(" ")[0]
    if code == "NOPERM" or "ACL failure" in text or "can't run this command" in text:
        what = "channels" if "channel" in text else "keys" if "key" in text else "commands"
        return f"permission for our {what} is missing: {_ACL}"
    if "cluster support disabled" in text:
        return "it is not a cluster: set cluster = no"
    return _meaning(code) or f"it refuses: {quoted(text, 160)}"


def _name(node: Node) -> str:
    host, port = node
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _clock(ahead_s: Sequence[float | None]) -> str:
    known = [each for each in ahead_s if each is not None]
    return f", {agreeing(max(map(abs, known)))}" if known else ""


def _skews(clocks: dict[Node, float | None]) -> list[str]:
    return [
        f"the clock of {_name(node)} is {skew(ahead_s)}"
        for node, ahead_s in clocks.items()
        if ahead_s is not None and abs(ahead_s) > CLOCK_TOLERANCE_S
    ]
