"""
What is kept of callers' numbers and names, and how a number is searched. Pure.

Words such as "anonymous" name no one and are kept with ``last3``, too.
"""

from __future__ import annotations

import re

from middlewared.history.interface import Numbers

_KEPT_DIGITS = 3
# What may be between the digits of a number; see web/fields.py.
_MARKS = re.compile(r"[\s+().–/xX-]")


def digits_of(number: str) -> str:
    """The digits of a number, or its word in lower case: what it is searched by."""
    bare = number.removeprefix("+")
    if not bare.isdigit():
        bare = _MARKS.sub("", bare)
    return bare if bare.isascii() and bare.isdigit() else number.strip().lower()


def kept_number(number: str, numbers: Numbers) -> str:
    """What is kept of a caller's number."""
    match numbers:
        case "all":
            return number
        case "last3":
            digits = digits_of(number)
            return digits[-_KEPT_DIGITS:] if digits.isdigit() else number
        case "none":
            return ""


def kept_name(name: str, numbers: Numbers) -> str:
    """What is kept of a caller's name: three letters of it would serve no one."""
    return name if numbers == "all" else ""


def searched_numbers(number: str, numbers: Numbers) -> list[str]:
    """
    The texts by which a number is found, as far as it is kept; none: not at all.

    With ``last3``, calls that were kept before with all of their digits are found, too.
    """
    kept = digits_of(kept_number(number, numbers))
    whole = digits_of(number)
    return list(dict.fromkeys([whole, kept])) if kept else []
