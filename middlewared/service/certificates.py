"""
Whether an Apple app's certificate fits what its section says.

The one invariant: only what Apple wrote into a certificate is held against it; one that
Apple did not make, as a relay's or a test's, passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from cryptography import x509

from middlewared.config import AppleApp, Config
from middlewared.push.apns.extensions import Scope, scope_of


def misfits(app: AppleApp, scope: Scope) -> Iterator[str]:
    """Why no call of ``app`` can be pushed with a certificate of ``scope``; key and what."""
    if scope.is_known and app.topic not in scope.topics:
        yield (
            f"certificate: {app.certificate} is for {_listed(scope.topics)}, the topic of"
            f" calls is {app.topic}: set the certificate of this app, or topic"
        )


def sends_alerts(app: AppleApp, scope: Scope) -> bool:
    """Whether Apple takes an alert to ``app`` with a certificate of ``scope``, for all we know."""
    return not scope.is_known or app.topic.removesuffix(".voip") in scope.topics


def certificate_warnings(config: Config) -> Iterator[tuple[str, str, str]]:
    """What certificates that fit are not good for: section, key and what."""
    for app in config.apps.values():
        if isinstance(app, AppleApp) and app.certificate is not None:
            for key, what in _shortcomings(app, _scope_in(app.certificate)):
                yield f"app:{app.app}:{app.platform.value}", key, what


def _shortcomings(app: AppleApp, scope: Scope) -> Iterator[tuple[str, str]]:
    alerts = app.topic.removesuffix(".voip")
    if app.lost_account_notice and not sends_alerts(app, scope):
        yield (
            "lost_account_notice",
            f"the certificate is for {_listed(scope.topics)} alone and cannot send the alert"
            f" that an account has moved (topic {alerts}): use a key or a universal"
            " certificate, or set no",
        )
    if scope.environments == {"sandbox"}:
        yield "certificate", "is for Apple's sandbox alone: apps from the App Store will not ring"
    if scope.environments == {"production"} and app.sandbox_url:
        yield (
            "certificate",
            "is for Apple's production servers alone: an empty sandbox_url switches the"
            " sandbox off",
        )


def _scope_in(path: Path) -> Scope:
    """The scope of the one certificate in a file that has any; its key is not looked at."""
    try:
        certificates = x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError):
        return Scope()  # its problem was reported, or it is gone by now
    scopes = [scope_of(each) for each in certificates]
    return next((scope for scope in scopes if scope != Scope()), Scope())


def _listed(topics: Iterable[str]) -> str:
    return ", ".join(sorted(topics))
