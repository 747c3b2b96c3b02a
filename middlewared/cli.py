"""
The console script ``middlewared``: what an operator does beside running the daemon.

The one invariant: a command ends with 0 when it did what its name says, with 1 and a
plain line on standard error when it did not, and never with a traceback for bad input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from middlewared import __version__
from middlewared.errors import ConfigError, MiddlewaredError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the value is the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
    except ConfigError as error:
        return _complain(*error.problems)
    except MiddlewaredError as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="middlewared", description=__doc__.splitlines()[1])
    parser.add_argument("--version", action="version", version=f"middlewared {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    check = commands.add_parser("check", help="judge a configuration; print every problem")
    _add_config(check)
    check.set_defaults(run=_check)

    migrate = commands.add_parser("migrate", help="create or upgrade the database's schema")
    _add_config(migrate)
    migrate.set_defaults(run=_migrate)

    demo = commands.add_parser("demo", help="show every kind of call on simulated peers")
    demo.add_argument("--serve", action="store_true", help="stay up, with curl commands to play")
    demo.set_defaults(run=_demo)
    return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-c", "--config", type=Path, metavar="FILE", help="the ini file")


def _check(arguments: argparse.Namespace) -> int:
    from middlewared.service.options import read_all

    try:
        config = read_all(arguments.config)
    except ConfigError as error:
        for problem in error.problems:
            print(problem)  # noqa: T201
        return 1
    for warning in config.warnings:
        print(f"warning: {warning}")  # noqa: T201
    return 0


def _migrate(arguments: argparse.Namespace) -> int:
    from middlewared.service.commands import migrate
    from middlewared.service.options import read_all

    return migrate(read_all(arguments.config))


def _demo(arguments: argparse.Namespace) -> int:
    from middlewared.demo.run import run_demo

    return run_demo(serve=arguments.serve)


def _complain(*problems: str) -> int:
    for problem in problems:
        print(problem, file=sys.stderr)  # noqa: T201
    return 1
