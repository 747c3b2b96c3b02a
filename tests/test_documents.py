"""Every command of a document is run by a test, or names what exists, or is marked as not run."""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

from middlewared.cli.main import parse
from middlewared.service.options import Options
from tests.documents import (
    DOCUMENTS,
    PARSED,
    ROOT,
    RUN_BY,
    RUN_ELSEWHERE,
    Command,
    blocks_of,
    commands_of,
    spans_of,
)

PICTURE = re.compile(r"\||->")
TYPES = {"int": int, "float": float, "Path": Path, "str": str}


class WrongCommand(Exception):
    """A command that its program would refuse."""


def check(words: Sequence[str]) -> None:
    """
    Compare a command with what it names, and what it starts with that.

    :raises WrongCommand: it would be refused.
    """
    match [words[0].removeprefix(".venv/bin/").removeprefix("/opt/middlewared/bin/"), *words[1:]]:
        case ["runuser", "-u", "middlewared", "--", *rest]:
            check(rest)
        case ["middlewared", *arguments]:
            refused(parse, arguments)
        case ["twistd", "-n", "middlewared", *arguments]:
            options: Any = Options
            refused(options().parseOptions, arguments)
        case ["python", "-m", "pytest" | "twisted.trial" as runner, *arguments]:
            check_tests(runner, arguments)
        case ["python", script, *arguments] if script.endswith(".py"):
            check_script(ROOT / script, arguments)
        case ["./ci.sh", *parts] if len(parts) < 2:
            text = (ROOT / "ci.sh").read_text(encoding="utf-8")
            (known,) = re.findall(r"Usage: ./ci.sh \[(.*)\]", text)
            existing(parts, known.split("|"))
        case ["nox", *arguments]:
            sessions = [*functions(ROOT / "noxfile.py"), "tests-3.13", "-s", "--", "unit"]
            existing(arguments, sessions)
        case _:
            raise WrongCommand("no test runs it")


def refused(parse_arguments: Any, arguments: Sequence[str]) -> None:
    """:raises WrongCommand: the parser refuses the arguments."""
    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output), contextlib.redirect_stdout(output):
            parse_arguments(arguments)
    except UsageError as error:
        raise WrongCommand(error) from error
    except SystemExit as error:
        if error.code:  # 0: --help
            raise WrongCommand(output.getvalue()) from error


def existing(names: Sequence[str], known: Sequence[str]) -> None:
    """:raises WrongCommand: one of the names is not known."""
    if unknown := set(names) - set(known):
        raise WrongCommand(f"{unknown} of {known}")


def functions(path: Path) -> list[str]:
    """The names of all functions and classes of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [node.name for node in ast.walk(tree) if isinstance(node, kinds)]


def check_tests(runner: str, arguments: Sequence[str]) -> None:
    """:raises WrongCommand: a file, class or test does not exist."""
    if runner == "twisted.trial":
        module, _, name = arguments[0].rpartition(".")
        existing([name], functions(ROOT.joinpath(*module.split(".")).with_suffix(".py")))
        return
    files = list(ROOT.glob(arguments[0]))
    names = [name for path in files for name in functions(path)]
    if not files or (arguments[1:] and not any(arguments[2] in name for name in names)):
        raise WrongCommand("no such test")


def check_script(path: Path, arguments: Sequence[str]) -> None:
    """:raises WrongCommand: a script does not exist, or does not take the arguments."""
    if not path.exists():
        raise WrongCommand("no such file")
    parser = declared_parser(path)
    if parser is not None:
        refused(parser.parse_args, arguments)
    elif any(argument.startswith("-") for argument in arguments):
        raise WrongCommand("it has no options")
    for argument in arguments:
        if " " in argument and path.name in ("pairs.py", "instructions.py"):
            check_script(path.with_name("calls.py"), shlex.split(argument))


def declared_parser(path: Path) -> argparse.ArgumentParser | None:
    """The parser that a script makes, by its source: most scripts cannot be imported."""
    calls = [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and (ast.unparse(node.func) == "add" or ast.unparse(node.func).endswith(".add_argument"))
    ]
    parser = argparse.ArgumentParser()
    for call in calls:
        names = [ast.literal_eval(each) for each in call.args]
        parser.add_argument(*names, **dict(settings(call.keywords)))
    return parser if calls else None


def settings(keywords: Sequence[ast.keyword]) -> Iterator[tuple[str, Any]]:
    """The settings of a declaration, as far as the source alone shows them."""
    for keyword in keywords:
        if keyword.arg in ("action", "nargs"):
            yield keyword.arg, ast.literal_eval(keyword.value)
        elif keyword.arg == "type":
            yield "type", TYPES[ast.unparse(keyword.value)]
        elif keyword.arg == "choices":
            with contextlib.suppress(ValueError):  # a name of the script
                yield "choices", ast.literal_eval(keyword.value)


def problem_of(command: Command) -> str:
    """Why a command cannot be as it is; empty: it can."""
    covered = not PARSED.match(command.text) and (
        (command.document, command.heading) in RUN_BY or command.program in RUN_ELSEWHERE
    )
    if not command.run or covered:
        return ""
    try:
        for part in re.split(r"&&|\|", command.text):
            check(shlex.split(part, comments=True))
    except WrongCommand as error:
        return f"{command}: {error}"
    return ""


class DocumentTests(SynchronousTestCase):
    """tests/documents.py names who runs what."""

    def test_every_command_is_run_or_checked_or_marked(self) -> None:
        """A command that was never tried is marked, so that no one copies it unaware."""
        commands = [command for document in DOCUMENTS for command in commands_of(document)]
        self.assertGreater(len(commands), 100)
        self.assertEqual([text for text in map(problem_of, commands) if text], [])

    def test_commands_within_the_text(self) -> None:
        """Scripts and commands that a sentence names exist, with these options."""
        wrong = []
        for document in DOCUMENTS:
            for span in spans_of(document):
                words = span.split()
                script = words[0] == "python" and words[1].endswith(".py")
                if script or (words[0] == "middlewared" and "FILE" in words):
                    try:
                        check(shlex.split(span))
                    except WrongCommand as error:
                        wrong.append(f"{document}: {span}: {error}")
        self.assertEqual(wrong, [])

    def test_fenced_blocks_without_a_language_are_pictures(self) -> None:
        """Commands in them would not be found."""
        for document in DOCUMENTS:
            for block in blocks_of(document):
                if block.language == "":
                    self.assertRegex("\n".join(block.lines), PICTURE, f"{document}:{block.line}")

    def test_who_runs_them(self) -> None:
        """Files that are said to run commands exist, and so do the headings."""
        for file in {*RUN_BY.values(), *RUN_ELSEWHERE.values()}:
            self.assertIn("commands_of", (ROOT / file).read_text(encoding="utf-8"))
        found = {(each.document, each.heading) for d in DOCUMENTS for each in commands_of(d)}
        self.assertEqual(set(RUN_BY) - found, set())
