"""
Whether an Apple app's certificate matches its section.

Apple's own extensions decide. A certificate without them is checked by its subject where pushes go
to Apple; a relay may accept any, so there it is a warning.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509

from middlewared.config import AppleApp, Config
from middlewared.errors import Problem
from middlewared.push.apns.certificate_scope import Scope, scope_of


def scope_problems(app: AppleApp, scope: Scope) -> Iterator[Problem]:
    """Why no call of ``app`` can be pushed with a certificate of ``scope``."""
    if scope.is_known or _is_at_apple(app):
        yield from _topic_problems(app, scope)


def sends_alerts(app: AppleApp, scope: Scope) -> bool:
    """Whether Apple accepts alerts to ``app`` with a certificate of ``scope``, or may do so."""
    return not scope.is_known or app.topic.removesuffix(".voip") in scope.topics


def _topic_problems(app: AppleApp, scope: Scope) -> Iterator[Problem]:
    if scope.topics and app.topic not in scope.topics:
        yield Problem(
            app.section,
            "certificate",
            f"{app.certificate} is for {_listed(scope.topics)}, the topic of calls is"
            f" {app.topic}: set the certificate of this app, or topic",
        )


def _is_at_apple(app: AppleApp) -> bool:
    return f".{urlsplit(app.production_url).hostname}".endswith(".push.apple.com")


def certificate_warnings(config: Config) -> Iterator[Problem]:
    """What the apps' certificates cannot be used for, although their topic is right."""
    for app in config.apps.values():
        if isinstance(app, AppleApp) and app.certificate is not None:
            yield from _scope_warnings(app, _scope_in(app.certificate))


def _scope_warnings(app: AppleApp, scope: Scope) -> Iterator[Problem]:
    if not scope.is_known and not _is_at_apple(app):
        yield from _topic_problems(app, scope)
    alerts = app.topic.removesuffix(".voip")
    if app.lost_account_notice and not sends_alerts(app, scope):
        yield Problem(
            app.section,
            "lost_account_notice",
            f"the certificate is only for {_listed(scope.topics)} and cannot send the alert"
            f" that an account has moved (topic {alerts}): use a key or a universal"
            " certificate, or set it to no",
        )
    if scope.environments == {"sandbox"}:
        what = "is only for Apple's sandbox: apps from the App Store will not ring"
        yield Problem(app.section, "certificate", what)
    if scope.environments == {"production"} and app.sandbox_url:
        yield Problem(
            app.section,
            "certificate",
            "is only for Apple's production servers: leave sandbox_url empty to switch the"
            " sandbox off",
        )


def _scope_in(path: Path) -> Scope:
    """The scope of the certificate in a file; the key in it is not read."""
    try:
        certificates = x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError):
        return Scope()  # the problem was already reported, or the file is gone by now
    scopes = [scope_of(each) for each in certificates]
    return next((scope for scope in scopes if scope != Scope()), Scope())


def _listed(topics: Iterable[str]) -> str:
    return ", ".join(sorted(topics))
