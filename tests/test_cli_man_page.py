"""The man page and the shells' completions have every command and option of the parser."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from middlewared.cli.main import command_parser

ETC = Path(__file__).parent.parent / "etc"


def commands(
    parser: argparse.ArgumentParser, *words: str
) -> Iterator[tuple[tuple[str, ...], list[argparse.Action]]]:
    """Each command, by its words, and what its parser takes; the first is the program itself."""
    yield words, [each for each in parser._actions if not isinstance(each, argparse._HelpAction)]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, each in action.choices.items():
                yield from commands(each, *words, name)


class GeneratedFileTests(SynchronousTestCase):
    """``python release/commands.py`` makes these files."""

    def assert_completed(self, name: str, part: str, option: str = "--{}") -> None:
        """
        A completion knows each command with its options, and the choices of options.

        :param part: a pattern for what the file has on a command: its ``{words}``, or its
            ``{name}`` as a part of an identifier.
        :param option: how a long option is written.
        """
        text = (ETC / "completion" / name).read_text(encoding="utf-8")
        for words, actions in commands(command_parser()):
            identifier = "".join("_" + word.replace("-", "_") for word in words)
            pattern = part.format(words=" ".join(words), name=identifier)
            found = " ".join(re.findall(pattern, text, re.DOTALL | re.MULTILINE))
            self.assertTrue(found, words)
            for action in actions:
                for long in (each[2:] for each in action.option_strings if each[1] == "-"):
                    self.assertRegex(found, rf"{option.format(long)}(?![\w-])", words)
                if action.option_strings and action.choices is not None:
                    self.assertIn(" ".join(action.choices), text)

    def test_bash(self) -> None:
        """Bash completes everything."""
        self.assert_completed("middlewared", r"^_shtab_middlewared{name}_option_strings=\((.*?)\)$")

    def test_zsh(self) -> None:
        """Zsh completes everything."""
        self.assert_completed("_middlewared", r"^_shtab_middlewared{name}_options=\((.*?)^\)$")

    def test_fish(self) -> None:
        """Fish completes everything."""
        self.assert_completed(
            "middlewared.fish", r"(?m:^complete [^\n]*_using ?{words}['; ][^\n]*)", option="-l {}"
        )

    def test_man_page(self) -> None:
        """Each command has a section, with an entry for each argument and each choice."""
        page = (ETC / "man" / "middlewared.1").read_text(encoding="utf-8").replace("\\-", "-")
        sections = dict(re.findall(r"(?ms)^\.SS \\fB(.+?)\\fR$(.+?)(?=^\.S[SH])", page))
        for words, actions in commands(command_parser()):
            section = sections[" ".join(("middlewared", *words))] if words else page
            for action in actions:
                for name in action.option_strings or [str(action.metavar)]:
                    self.assertIn(name, section, words)
                for choice in action.choices or ():
                    self.assertIn(choice, page)
