"""
The verdict on a call: what happened, where the time went, and what to do next. Pure.

:data:`VERDICTS` is read from the top; the first line that applies gives the text, in which
``{f.name}`` stands for an attribute of :class:`.verdict_facts.Facts`. To add one, put it above
those that would apply as well. Texts are read out to customers: whole sentences, no bare codes,
the next step last. What a provider or an app wrote is quoted, cut and escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from middlewared.history.interface import HUNG_UP, Hindrance, KeptCall
from middlewared.history.verdict_facts import Facts


def verdict(call: KeptCall) -> str:
    """What happened to ``call``, where the time went, and what to do next."""
    facts = Facts(call)
    return next(text for applies, text in VERDICTS if applies(facts)).format(f=facts)


def _outcome(outcome: str, also: Callable[[Facts], object] = lambda _: True) -> Applies:
    return lambda facts: facts.outcome == outcome and bool(also(facts))


Applies: TypeAlias = Callable[[Facts], bool]

VERDICTS: Sequence[tuple[Applies, str]] = (
    # The phone took the call
    (
        _outcome("answered", lambda f: f.failure),
        "The phone was woken and took the call after {f.answered_after}, but its app reports that"
        " the call then failed: {f.failure}. The waking worked. Look at what comes after it: the"
        " phone's registration at the SIP proxy, its network, the codecs.",
    ),
    (
        _outcome("answered", lambda f: f.is_slow and f.is_sent_late),
        "The phone took the call, but only {f.answered_after} after it had been placed, because"
        " the first push was sent {f.sent_after} after that. The database or the daemon was too"
        " slow. The operator must look at the daemon's log and at the load of its host.",
    ),
    (
        _outcome("answered", lambda f: f.is_slow and f.is_accepted_late),
        "The phone took the call, but only {f.answered_after} after it had been placed, because"
        " {f.provider} took {f.accepted_after} to accept the push. If this happens often, check"
        " the status page of {f.provider} and the connection from here to it (middlewared check"
        " --online).",
    ),
    (
        _outcome("answered", lambda f: f.is_slow),
        "The phone took the call, but only {f.answered_after} after it had been"
        " placed{f.accepted_part}. The caller waited that long.{f.ending_part} If this happens"
        " often, look at the phone's network and its battery saver.",
    ),
    (
        _outcome("answered"),
        "The phone was woken and took the call after {f.answered_after}{f.accepted_part}. The PBX"
        " was asked to send the call to it.{f.ending_part} If the phone did not ring even so, look"
        " at the SIP proxy and at the app.",
    ),
    # The phone was woken, and did not take the call
    (
        _outcome("unavailable"),
        "The phone was woken and refused the call after {f.answered_after}. Its app could not take"
        " it: the user was in another call, or the app could not register at the SIP proxy. Ask"
        " the user, and look at the phone's registration at the SIP proxy.",
    ),
    (
        _outcome("timeout", lambda f: f.is_sent_late),
        "The first push was sent only {f.sent_after} after the call had been placed, which left the"
        " phone less of its {f.wait}, and it did not answer in time{f.late_part}. The database or"
        " the daemon was too slow. The operator must look at the daemon's log and at the load of"
        " its host.",
    ),
    (
        _outcome("timeout", lambda f: f.is_accepted_late),
        "{f.provider} took {f.accepted_after} to accept the push, which left the phone less of its"
        " {f.wait}, and it did not answer in time{f.late_part}. Check the status page of"
        " {f.provider} and the connection from here to it (middlewared check --online).",
    ),
    (
        _outcome("timeout", lambda f: f.late),
        "The phone {f.late_answer}, but {f.late_by} too late: it had {f.wait} to"
        " answer{f.accepted_part}. It can be reached but is slow: look at its network and its"
        " battery saver. If many phones are slow, the operator can let calls wait longer ([calls]"
        " roundtrip_wait_ms).",
    ),
    (
        _outcome("timeout", lambda f: f.undecided),
        "The phone refused {f.refusals}, as apps do with a repeated push that they are already"
        " handling, but then gave no other answer within {f.wait} ({f.pushes} sent). Ask the user"
        " whether another call was under way, and look at the phone's registration at the SIP"
        " proxy.",
    ),
    (
        _outcome("timeout", lambda f: f.record.inherited and not f.accepted),
        "A daemon that failed during the call had sent {f.inherited_pushes}, and the phone did not"
        " answer within {f.wait}. What became of them is not known. If it happens again,"
        " ask the user to open the app.",
    ),
    (
        _outcome("timeout", lambda f: f.hindrance is Hindrance.SILENT and f.accepted),
        "The phone has not answered its last calls, so it got one push and less time, and it did"
        " not answer this call either. {f.provider} accepted the push within {f.accepted_after},"
        " but the app is probably gone, logged out or no longer started by the system. Ask the"
        " user to open the app: once it registers or answers again, it gets the full time.",
    ),
    (
        _outcome("timeout", lambda f: f.accepted),
        "{f.provider} accepted {f.accepted_pushes}, the first within {f.accepted_after}, but the"
        " phone did not answer within {f.wait}. It is probably switched off or without a network,"
        " or its system no longer starts the app. Ask the user to open the app and to try again;"
        " if that helps, check the app's permissions for notifications and background work.",
    ),
    (
        _outcome("timeout", lambda f: f.uncertain),
        "The push was sent, but {f.provider} did not confirm it ({f.reason}), and the phone did not"
        " answer within {f.wait}. Whether it was delivered is not known. Let the caller try again;"
        " if this happens often, check the connection from here to {f.provider} (middlewared check"
        " --online).",
    ),
    (
        _outcome("timeout", lambda f: f.all_pushes),
        "{f.provider} accepted no push within {f.wait}: {f.reason}. The phone is not to blame."
        " Check the status page of {f.provider} and the connection from here to it (middlewared"
        " check --online).",
    ),
    (
        _outcome("timeout", lambda f: f.waited_for_connection),
        "No push was sent within {f.lasted}, because there was no free connection to"
        " {f.provider}. The phone is not to blame. Check the status page of {f.provider} and the"
        " connection from here to it (middlewared check --online).",
    ),
    (
        _outcome("timeout"),
        "The call ended after {f.lasted}, before any push was sent: the database or the daemon was"
        " too slow. The phone is not to blame. The operator must look at the daemon's log and at"
        " the load of its host.",
    ),
    # The phone could not be woken
    (
        _outcome("no-device", lambda f: f.hindrance is Hindrance.DO_NOT_DISTURB),
        "The phone is registered, but set to do not disturb in its app, so it was not woken. Ask"
        " the user to switch that off in the app.",
    ),
    (
        _outcome("no-device"),
        "No phone is registered for this account, so none could be woken. Ask the user to open the"
        " app and to log in; the events of the account show when a phone was removed, and why.",
    ),
    (
        _outcome("token-dead"),
        "{f.provider} reports that the phone's push token is no longer valid ({f.reason}): the app"
        " was removed from the phone, or was not opened for a long time. The phone's registration"
        " was removed, unless it had registered again meanwhile. Ask the user to open the app, or"
        " to install it again: that registers the phone.",
    ),
    (
        _outcome("push-failed", lambda f: f.hindrance is Hindrance.NO_SECTION),
        "The configuration has no section for the app {f.app} on {f.platform}, so its phones"
        " cannot be woken. The operator must add the section, or the user must install the"
        " current app.",
    ),
    (
        _outcome("push-failed", lambda f: f.last_verdict == "token-suspect"),
        "{f.provider} refused the phone's push token ({f.reason}): it belongs to another app,"
        " project or environment. Ask the user to open the app, which registers a new one. If many"
        " phones are affected, the operator must compare the app's section of the configuration"
        " with the app that was published.",
    ),
    (
        _outcome("push-failed", lambda f: f.last_verdict == "config-fault"),
        "{f.provider} refused the push ({f.reason}). The phone is not to blame, and other phones"
        " of this app are probably affected, too. The operator must check the app's credentials"
        " and section of the configuration now (middlewared check --online).",
    ),
    (
        _outcome("push-failed"),
        "The push could not be sent: {f.reason}. The operator finds more in the daemon's log by"
        " this call's key.",
    ),
    # The call ended otherwise
    (
        _outcome(HUNG_UP),
        "The caller gave up, or the PBX closed its connection, after {f.lasted}; {f.done}, and the"
        " phone had not answered. If the caller did not give up, let the PBX wait for the reply"
        " longer than {f.wait}.",
    ),
    (
        _outcome("cancelled"),
        "The caller gave up after {f.lasted}, and the PBX cancelled the call; {f.done}, and the"
        " phone had not answered. There is nothing to do, unless the phone is often that slow:"
        " then look at its network and its battery saver.",
    ),
    (
        _outcome("service-down"),
        "The call was refused because the database or Redis could not be reached. The phone is not"
        " to blame. The PBX should place such calls again through another daemon; the operator"
        " must look at the database and Redis.",
    ),
    (
        _outcome("draining"),
        "The daemon was being stopped and ended the call. The PBX, or the balancer before it,"
        " should have placed it again through another daemon: look for the same call there.",
    ),
    (
        _outcome("overloaded"),
        "The daemon had more calls than it could serve and refused this one. The PBX, or the"
        " balancer before it, should have placed it again through another daemon. If this happens"
        " often, the operator must add a daemon.",
    ),
    (
        lambda _: True,
        "The call ended as {f.outcome} after {f.lasted}. The operator finds more in the daemon's"
        " log by its key.",
    ),
)
"""The conditions and texts."""
