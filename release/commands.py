"""
Makes the man page and the shells' completions from the parser of ``middlewared``.

``python release/commands.py [DIRECTORY]`` writes them below etc/, or below DIRECTORY. They are
kept in the repository: those who install a release need neither of the two packages.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import shtab
from argparse_manpage.manpage import Manpage

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from middlewared import __version__  # noqa: E402
from middlewared.cli.main import command_parser  # noqa: E402

COMPLETIONS = {"bash": "middlewared", "zsh": "_middlewared", "fish": "middlewared.fish"}
"""The file of each shell, by the name under which it looks for one."""

SECTIONS = {
    "EXIT STATUS": "0 if the command succeeded; 1 if not, with the reason on standard error;"
    " 2 if the command line is wrong.",
    "NOTES": "\\fBcalls\\fR and \\fBdevices\\fR without a command of their own list.\n"
    "Without \\fB\\-\\-config\\fR all defaults apply. The daemon itself is started by\n"
    "\\fBtwistd \\-n middlewared \\-\\-config\\fR \\fI\\,FILE\\/\\fR.",
    "FILES": ".TP\n\\fI/etc/middlewared/middlewared.ini\\fR\nthe configuration, where the manual"
    " puts it; each key is explained in it",
    "SEE ALSO": "\\fBtwistd\\fR(1), and the manual in docs/ of the release.",
}


def all_parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parser, and those of its commands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from all_parsers(each)


def man_page() -> str:
    """The page, without a date: it stays the same until the program changes."""
    page = Manpage(
        command_parser(),
        {
            "project_name": "middlewared",
            "version": __version__,
            "manual_title": "middlewared",
            "description": "check, prepare and try what twistd middlewared runs",
        },
        format="single-commands-section",
    )
    page.date = ""
    for heading, text in SECTIONS.items():
        page.add_section(heading, ">", text)
    return str(page)


def completion(shell: str) -> str:
    """The script of a shell; file names complete where the parser wants a path."""
    parser = command_parser()
    for each in all_parsers(parser):
        for action in each._actions:
            if action.type is Path:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
            if action.choices and action.help:  # fish would repeat a list of them at each
                action.help = action.help.partition(":")[0]
    return shtab.complete(parser, shell)


def main() -> None:
    """Write all of them."""
    os.environ["COLUMNS"] = "80"  # argparse wraps for the terminal
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "etc"
    files = {"man/middlewared.1": man_page()}
    files |= {f"completion/{name}": completion(shell) for shell, name in COMPLETIONS.items()}
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
