"""
Redaction: the second line of defence against secrets in the log.

The first is that code does not log them. Clients choose some of the texts, so redaction takes
time linear in their length, whatever they contain.
"""

from __future__ import annotations

import re

HIDDEN = "***"

# A value in quotes ends at the next quote, any other at a blank or separator.
_VALUE = r"""(?:"[^"]*+"|'[^']*+'|[^\s"',;&)}\]]++)"""
_NAMES = (
    r"authorization|api_?key|key|password|passwd|secret|private_key|assertion"
    r"|access_token|remote_notification_token|token"
)
# The look-ahead avoids trying each name at each quote of a text full of quotes.
_NAMED = rf"(?=[akprst])(?:{_NAMES})"
# Each takes time linear in the text. A run of characters is tried from its beginning only
# (the look-behinds) and never backtracked into (the possessive quantifiers).
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END|\Z)", re.DOTALL), HIDDEN),
    # Authorization: Basic eHk6eg==, also as an item of a dict or of a list of headers.
    (
        re.compile(
            r"""(?i)\b(authorization\b["']?\s*+[:=,]\s*+[(\[]*+b?["']?)[a-z]++[\s=][^\s"',)\]]++"""
        ),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"(?i)\b(bearer|basic)\s++[A-Za-z0-9._~+/=-]{8,}+"), rf"\1 {HIDDEN}"),
    # password=x and "token": "x"; not unique_key=x, nor the "password: must ..." of a problem.
    (
        re.compile(rf"""(?i)(?<![\w-])({_NAMED}\s*+=\s*+|["']{_NAMED}["']\s*+:\s*+)b?{_VALUE}"""),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"(://[^\s/:@]*+:)[^\s/@]++@"), rf"\1{HIDDEN}@"),
    # A JSON Web Token; what precedes it in the same word stays.
    (re.compile(r"(?<![\w-])(?=[\w-]++\.)([\w-]*?\b)eyJ[\w-]{8,}+\.[\w.-]++"), rf"\1{HIDDEN}"),
    # An APNs device token, an FCM registration token.
    (re.compile(r"\b[0-9A-Fa-f]{64,}+\b"), HIDDEN),
    (re.compile(r"(?<![\w-])[\w-]++:APA91[\w-]++"), HIDDEN),
)
_SECRET_NAME = re.compile(_NAMES)
# Every match of a pattern above contains one of these; hardly any line does. They are plain
# words and two patterns anchored at word starts, because every line of a busy log is searched;
# the one for keys only in lines with others than the unique_key of a call.
_SUSPECT_WORDS = (
    *("private key", "private_key", "bearer", "basic", "authorization", "password", "passwd"),
    *("secret", "assertion", "token", "://", "eyj", "apa91"),
)
_SUSPECT_KEY = re.compile(r"\b(?:api_?)?key")
_SUSPECT_TOKEN = re.compile(r"\b[0-9a-f]{64}")


def redacted(text: str) -> str:
    """``text`` without what looks like a credential or a whole push token."""
    lowered = text.lower()
    if not (
        any(word in lowered for word in _SUSPECT_WORDS)
        or (lowered.count("key") > lowered.count("unique_key") and _SUSPECT_KEY.search(lowered))
        or _SUSPECT_TOKEN.search(lowered)
    ):
        return text
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def secret_name(name: str) -> bool:
    """Whether a field of this name would hold a secret."""
    return _SECRET_NAME.fullmatch(name.lower()) is not None
