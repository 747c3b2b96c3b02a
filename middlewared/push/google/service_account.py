"""
The service account that may push through FCM HTTP v1.

A loaded account can sign. Every fault of the file is a problem that the operator can read;
none quotes the key.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from middlewared.errors import ConfigError, Problem
from middlewared.push.private_keys import load_private_key

_FIELDS = ("project_id", "client_email", "private_key_id", "private_key", "token_uri")


@attrs.frozen
class ServiceAccount:
    """A Google service account, read from its JSON key file."""

    project_id: str
    client_email: str
    private_key_id: str
    token_uri: str
    private_key: RSAPrivateKey = attrs.field(repr=False, eq=False)


def load_service_account(path: str | Path) -> ServiceAccount:
    """
    Read the JSON key file that the Google console generates.

    :raises ConfigError: with every problem of the key service_account.
    """
    try:
        document = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise _faulty([f"cannot read {path}: {error.strerror}"]) from error
    except (ValueError, RecursionError) as error:
        raise _faulty([f"{path} is not JSON"]) from error
    if not isinstance(document, dict) or document.get("type") != "service_account":
        raise _faulty([f"{path} is not the key file of a service account"])
    problems = [
        f"{path} has no {field}"
        for field in _FIELDS
        if not isinstance(document.get(field), str) or not document[field]
    ]
    if problems:
        raise _faulty(problems)
    return _account(path, document)


def _account(path: str | Path, document: dict[str, Any]) -> ServiceAccount:
    try:
        uri = urlsplit(document["token_uri"])
        usable_uri = uri.scheme in ("https", "http") and bool(uri.hostname)
    except ValueError:
        usable_uri = False
    if not usable_uri:
        raise _faulty([f"{path} has a token_uri that is not a web address"])
    return ServiceAccount(
        project_id=document["project_id"],
        client_email=document["client_email"],
        private_key_id=document["private_key_id"],
        token_uri=document["token_uri"],
        private_key=_private_key(path, document["private_key"]),
    )


def _private_key(path: str | Path, pem: str) -> RSAPrivateKey:
    try:
        key = load_private_key(pem.encode())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # Not chained: the library's error may quote the key.
        raise _faulty([f"{path} has a private_key that cannot be read"]) from None
    if not isinstance(key, RSAPrivateKey):
        raise _faulty([f"{path} has a private_key that is not an RSA key"])
    return key


def _faulty(problems: list[str]) -> ConfigError:
    return ConfigError(Problem("", "service_account", problem) for problem in problems)
