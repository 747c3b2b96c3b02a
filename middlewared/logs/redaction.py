"""
Keeping secrets out of the log: fingerprints to speak of them, a net for those that slip.

The one invariant: the net is the second line of defence; who logs must leave secrets out.
"""

from __future__ import annotations

import hashlib
import re

HIDDEN = "***"

# A value in quotes ends at the next one, any other at a blank or separator.
_VALUE = r"""(?:"[^"]*"|'[^']*'|[^\s"',;&)}\]]+)"""
_NAMES = (
    r"authorization|api_?key|key|password|passwd|secret|private_key|assertion"
    r"|access_token|remote_notification_token|token"
)
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END|\Z)", re.DOTALL), HIDDEN),
    # Authorization: Basic eHk6eg==, also as an item of a dict or of a list of headers.
    (
        re.compile(
            r"""(?i)\b(authorization\b["']?\s*[:=,]\s*[(\[]*b?["']?)[a-z]+[\s=][^\s"',)\]]+""",
        ),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"), rf"\1 {HIDDEN}"),
    # password=x and "token": "x"; not unique_key=x, nor the "password: must ..." of a problem.
    (
        re.compile(
            rf"""(?i)(?<![\w-])((?:{_NAMES})\s*=\s*|["'](?:{_NAMES})["']\s*:\s*)b?{_VALUE}"""
        ),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"(://[^\s/:@]*:)[^\s/@]+@"), rf"\1{HIDDEN}@"),
    # A JSON Web Token, an APNs device token, an FCM registration token.
    (re.compile(r"\beyJ[\w-]{8,}\.[\w.-]+"), HIDDEN),
    (re.compile(r"\b[0-9A-Fa-f]{64,}\b"), HIDDEN),
    (re.compile(r"\b[\w-]+:APA91[\w-]+"), HIDDEN),
)
_SECRET_NAME = re.compile(_NAMES)
# Whatever a pattern above finds has one of these in it; nearly no line has. Plain words,
# and one pattern anchored at word starts, because every line of a busy log is searched.
_SUSPECT_WORDS = (
    *("private key", "bearer", "basic", "authorization", "password", "passwd", "secret"),
    *("assertion", "token", "://", "eyj", "apa91"),
)
_SUSPECT = re.compile(r"\b(?:(?:api_?)?key|[0-9a-f]{64})")


def redacted(text: str) -> str:
    """``text`` without what looks like a credential or a whole push token."""
    lowered = text.lower()
    if not any(word in lowered for word in _SUSPECT_WORDS) and not _SUSPECT.search(lowered):
        return text
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def secret_name(name: str) -> bool:
    """Whether a field of this name would hold a secret."""
    return _SECRET_NAME.fullmatch(name.lower()) is not None


def fingerprint(secret: str) -> str:
    """
    A short word by which log lines about the same token or key can be told to belong together.

    Not for passwords: what can be guessed can be guessed from its fingerprint too.
    """
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()[:8]
