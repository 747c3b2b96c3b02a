"""
``middlewared push``: a real test call to a registered device, through the running daemon.

It does only what a PBX does, so its result is that of a PBX.
"""

from __future__ import annotations

import sys
from typing import Any, TextIO
from urllib.parse import urlencode
from uuid import uuid4

from middlewared.cli.daemon_client import DaemonClient, make_daemon_client
from middlewared.cli.reactor import run_in_reactor
from middlewared.config import Config
from middlewared.errors import MiddlewaredError
from middlewared.history.interface import Hindrance
from middlewared.model import Outcome, SipUserId
from middlewared.outgoing.interface import HttpResponse, OutgoingFailed

# Beyond the wait for the phone: for the daemon itself and the connection to it.
_MARGIN_S = 5.0
_WORKED = {Outcome.ANSWERED.value, Outcome.UNAVAILABLE.value}
_MEANING = {
    "answered": "the phone was woken and takes the call",
    "unavailable": "the phone was woken and takes no call now",
    "timeout": "no answer came in time",
    "no-device": "no device is registered for this account",
    "token-dead": "the app is gone from the device; its registration was removed",
    "push-failed": "the push could not be sent; see the daemon's log",
    "cancelled": "the PBX cancelled the call",
    "malformed": "the account is not between sip_user_id_min and sip_user_id_max (or does not match"
    " sip_user_id_pattern), or the phone number is invalid",
    "forbidden": "this host is not in [http] pbx_networks, or not in the networks of a [pbx:NAME]",
    "overloaded": "the daemon has more calls than it can serve, or [calls] max_waiting are waiting",
    "draining": "the daemon is stopping",
    "service-down": "the database or Redis is down",
}


_DO_NOT_DISTURB = "the account's device is set to do not disturb"


class PushFailed(MiddlewaredError):
    """The test call could not be placed."""


def push(config: Config, sip_user_id: SipUserId, *, phonenumber: str, url: str | None) -> int:
    """
    Place a test call and print its outcome and the time of each step.

    :param phonenumber: the caller that the phone shows.
    :param url: the daemon's base URL; None: as configured.
    :return: 0 when the phone answered, whether it is available or not; else 1.
    :raises PushFailed: the daemon is not running, or the answer is not one of the daemon's.
    """

    async def work(reactor: Any) -> int:
        daemon = make_daemon_client(config, reactor=reactor, url=url)
        call_id = str(uuid4())
        fields = {
            "sip_user_id": str(sip_user_id),
            "phonenumber": phonenumber,
            "caller_id": "middlewared test call",
            "call_id": call_id,
        }
        try:
            reply = await _place(daemon, fields, _longest_wait_s(config) + _MARGIN_S)
        finally:
            await daemon.http.close()
        outcome = reply.header("X-Outcome")
        if outcome is None or reply.status == 404:
            raise PushFailed(f"{daemon.name}: answered {reply.status}: no calls are taken there")
        _show(sys.stdout, call_id, outcome, reply.header("Server-Timing") or "")
        return 0 if outcome in _WORKED else 1

    return run_in_reactor(work)


def _longest_wait_s(config: Config) -> float:
    waits_s = [pbx.roundtrip_wait_s or 0.0 for pbx in config.pbxs]
    return max(config.calls.roundtrip_wait_s, *waits_s, 0.0)


async def _place(daemon: DaemonClient, fields: dict[str, str], timeout_s: float) -> HttpResponse:
    try:
        return await daemon.http.request(
            "POST",
            f"{daemon.base_url}/api/incoming-call/",
            headers={"Content-Type": "application/x-www-form-urlencoded", **daemon.headers},
            body=urlencode(fields).encode(),
            timeout_s=timeout_s,
        )
    except OutgoingFailed as error:
        raise PushFailed(f"no daemon answers at {daemon.name}: {error}") from error


def _show(out: TextIO, call_id: str, outcome: str, server_timing: str) -> None:
    steps = _steps(server_timing)
    meaning = _MEANING.get(outcome, "unknown to this command")
    if any(step == f"device ({Hindrance.DO_NOT_DISTURB.value})" for step, _ in steps):
        meaning = _DO_NOT_DISTURB
    out.write(f"{outcome}: {meaning}\n")
    out.write(f"call_id {call_id}\n")
    for step, took_ms in steps:
        out.write(f"{step:<20} {took_ms:>9} ms\n")


def _steps(server_timing: str) -> list[tuple[str, str]]:
    """Each step's name, with its note, and its milliseconds (W3C Server Timing, section 2)."""
    steps = []
    for metric in server_timing.split(","):
        name, *parameters = (part.strip() for part in metric.split(";"))
        given = dict(parameter.partition("=")[::2] for parameter in parameters)
        if "dur" in given:
            steps.append((f"{name} ({given['desc']})" if "desc" in given else name, given["dur"]))
    return steps
