"""The blocks of code and the commands of the project's documents."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import attrs
from markdown_it import MarkdownIt

ROOT = Path(__file__).parent.parent
DOCUMENTS = (
    *("README.md", "CONTRIBUTING.md", "RELEASING.md", "SECURITY.md"),
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
    *("bench/README.md", "checks/README.md"),
)
NOT_RUN = "# not run in our tests"
"""Begins the comment that tells a reader so: after a command, or above all those of a block."""

RUN_BY = {
    ("README.md", "Try it"): "tests/operations/manual.py",
    ("RELEASING.md", "Releasing"): "tests/operations/manual.py",
    ("RELEASING.md", "Verify a release"): "tests/operations/manual.py",
    ("docs/console.md", "Switch it on"): "tests/operations/manual.py",
    ("docs/console.md", "JSON"): "tests/operations/manual.py",
    ("docs/credentials.md", "Credentials of Apple and Google"): "tests/operations/manual.py",
    ("docs/credentials.md", "Apple, with a VoIP certificate"): "tests/operations/manual.py",
    ("docs/history.md", "History: why didn't my phone ring?"): "tests/operations/manual.py",
    ("docs/install.md", "Install"): "tests/operations/manual.py",
    ("docs/install.md", "Configure"): "tests/operations/manual.py",
    ("docs/install.md", "Secrets"): "tests/operations/manual.py",
    ("docs/install.md", "Try it"): "tests/operations/manual.py",
    ("docs/operating.md", "Check everything online"): "tests/operations/manual.py",
    ("docs/operating.md", "Several daemons"): "tests/operations/manual.py",
    ("docs/operating.md", "Reload and restart"): "tests/operations/manual.py",
    ("docs/operating.md", "Apple's root certificate"): "tests/operations/manual.py",
    ("docs/operating.md", "Many phones"): "tests/operations/manual.py",
    ("docs/operating.md", "Back up and restore"): "tests/operations/manual.py",
    ("docs/upgrade.md", "From vialer-middleware"): "tests/operations/manual.py",
    ("docs/upgrade.md", "Between releases of middlewared"): "tests/operations/manual.py",
}
"""Who runs the commands below a heading as they are written."""
RUN_ELSEWHERE = {
    "ACL": "tests/test_cli_check_backends.py",
    **dict.fromkeys(("pg_dump", "dropdb", "createdb", "pg_restore"), "tests/test_flow_database.py"),
}
"""Who runs those that begin so; they need a server."""
PARSED = re.compile(r"(python|nox|\.venv/bin/(python|middlewared|twistd))(?= |$)|\./ci\.sh")
"""Commands in a checkout, of which many take long: test_documents.py checks what they name."""

CONFIGURATION = re.compile(r"\[[^]]+\]|[\w@.-]+ ?=.*|[#;].*|")
OUTPUT = re.compile(
    r"\[.*\] .* (ok|wrong) .*|sha256 Fingerprint=.*"
    r"|call answered .*|configuration reloaded: .*|device removed: .*"
)
BRACES = re.compile(r"[^'\"|]+ \{")
"""The first line of a configuration of logrotate or keepalived."""


def opened(text: str) -> bool:
    """Whether a bracket is still open."""
    return any(text.count(begin) > text.count(end) for begin, end in ("()", "{}"))


@attrs.frozen
class Block:
    """A block of code."""

    document: str
    heading: str
    """The one above it."""
    line: int
    lines: tuple[str, ...]
    language: str | None
    """Of a fenced block, where most are pictures; None: it is indented."""

    @property
    def has_commands(self) -> bool:
        """Whether it is neither a picture, nor something to be put into a file, nor output."""
        if self.language is not None:
            return self.language == "sh"
        return not (
            all(CONFIGURATION.fullmatch(line) for line in self.lines)
            or all(OUTPUT.fullmatch(line) for line in self.lines)
            or BRACES.fullmatch(self.lines[0])
        )

    def commands(self) -> Iterator[Command]:
        """Each command, to the end of its brackets, its pipe, or its last line with a backslash."""
        run, text, begin = True, "", 0
        for number, line in enumerate(self.lines, self.line):
            begin = begin or number
            text += line.removesuffix("\\")
            if line.endswith("\\") or not text:
                continue
            if not text.startswith("#") and (line.endswith("|") or opened(text)):
                text += "\n"
                continue
            if text.startswith("#"):
                run = run and not text.startswith(NOT_RUN)
            else:
                marked = not run or NOT_RUN in text
                yield Command(self.document, self.heading, begin, text, not marked)
            text, begin = "", 0


@attrs.frozen
class Command:
    """A command with its comment."""

    document: str
    heading: str
    line: int
    text: str
    run: bool
    """False: the document marks it as run by no test."""

    @property
    def program(self) -> str:
        """Its first word."""
        return self.text.split()[0]

    def __str__(self) -> str:
        return f"{self.document}:{self.line}: {self.text}"


def blocks_of(document: str) -> Iterator[Block]:
    """Every block of code of a document, in order."""
    heading = ""
    tokens = MarkdownIt().parse((ROOT / document).read_text(encoding="utf-8"))
    for before, token in zip([None, *tokens], tokens, strict=False):
        if before is not None and before.type == "heading_open":
            heading = token.content
        elif token.type in ("code_block", "fence") and token.map is not None:
            fenced = token.type == "fence"
            lines = tuple(token.content.rstrip().splitlines())
            line = token.map[0] + (2 if fenced else 1)
            yield Block(document, heading, line, lines, token.info if fenced else None)


def commands_of(document: str) -> Iterator[Command]:
    """Every command in the blocks of a document."""
    for block in blocks_of(document):
        if block.has_commands:
            yield from block.commands()


def spans_of(document: str) -> Iterator[str]:
    """What stands as code within the text of a document."""
    for token in MarkdownIt().enable("table").parse((ROOT / document).read_text("utf-8")):
        for child in token.children or ():
            if child.type == "code_inline":
                yield child.content
