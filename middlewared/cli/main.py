"""
The console script ``middlewared``: all that an operator does apart from running the daemon.

The exit code is 0 when a command succeeds. Otherwise it is 1, with the reason on standard error;
invalid input causes no traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from middlewared import __version__
from middlewared.cli.moments import moment
from middlewared.errors import ConfigError, MiddlewaredError
from middlewared.model import Outcome, Platform

if TYPE_CHECKING:  # each command imports only what it needs: --help does not wait for Twisted
    from middlewared.config import Config
    from middlewared.model import SipUserId

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = parse(sys.argv[1:] if argv is None else argv)
    try:
        code: int = arguments.run(arguments)
    except MiddlewaredError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # as in "devices list | head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments of a command line; a wrong one ends the process, with exit code 2."""
    return command_parser().parse_args(_with_list(argv))


def command_parser() -> argparse.ArgumentParser:
    """The parser of all commands. Man page and completions are made from it (``release/``)."""
    parser = argparse.ArgumentParser(
        prog="middlewared", description="Check, prepare and try what twistd middlewared runs."
    )
    parser.add_argument("--version", action="version", version=f"middlewared {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for add in (
        *(_add_check, _add_migrate, _add_push, _add_calls, _add_devices, _add_import),
        *(_add_passwd, _add_demo),
    ):
        add(commands)
    return parser


def _with_list(argv: Sequence[str]) -> Sequence[str]:
    """``calls`` and ``devices`` alone list."""
    actions = {"calls": ("list", "show"), "devices": ("list", "show", "delete")}
    known = actions.get(argv[0]) if argv else None
    if known is None or (argv[1:2] and argv[1] in (*known, "-h", "--help")):
        return argv
    return [argv[0], "list", *argv[1:]]


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-c", "--config", type=Path, metavar="FILE", help="the ini file")


def _config(arguments: argparse.Namespace) -> Config:
    """The configuration. :raises ConfigError: with every problem."""
    from middlewared.service.configuration import read_all

    return read_all(arguments.config)


def _add_check(commands: Commands) -> None:
    parser = commands.add_parser("check", help="validate a configuration; print every problem")
    _add_config(parser)
    parser.add_argument(
        "--online",
        action="store_true",
        help="also contact Apple, Google, account API, database and Redis; no phone gets a push",
    )
    parser.set_defaults(run=_check)


def _check(arguments: argparse.Namespace) -> int:
    try:
        config = _config(arguments)
    except ConfigError as error:
        print(error)  # noqa: T201
        return 1
    for warning in config.warnings:
        print(f"warning: {warning.line(config.source)}")  # noqa: T201
    if not arguments.online:
        return 0
    from middlewared.cli.check.online import check_online

    return check_online(config)


def _add_migrate(commands: Commands) -> None:
    parser = commands.add_parser("migrate", help="create or upgrade the database schema")
    _add_config(parser)
    parser.set_defaults(run=_migrate)


def _migrate(arguments: argparse.Namespace) -> int:
    from middlewared.cli.migrate_command import migrate

    return migrate(_config(arguments))


def _add_push(commands: Commands) -> None:
    parser = commands.add_parser("push", help="place a test call through the running daemon")
    _add_config(parser)
    parser.add_argument(
        "--url", help="the daemon's base URL, if [http] has no address to connect to"
    )
    parser.add_argument(
        "--phonenumber",
        default="anonymous",
        help="the caller that the phone shows (default: anonymous)",
    )
    parser.add_argument("sip_user_id", metavar="SIP_USER_ID", help="the account to call")
    parser.set_defaults(run=_push, parser=parser)


def _push(arguments: argparse.Namespace) -> int:
    from middlewared.cli.push_command import push

    config = _config(arguments)
    return push(
        config,
        _account(arguments, config),
        phonenumber=arguments.phonenumber,
        url=arguments.url,
    )


def _add_calls(commands: Commands) -> None:
    parser = commands.add_parser("calls", help="list past calls, or explain one")
    actions = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, help_text in (
        ("list", "list calls, the newest first"),
        ("show", "show the newest call that matches: what happened, when, and what to do"),
    ):
        action = actions.add_parser(name, help=help_text)
        _add_config(action)
        action.add_argument("--json", action="store_true", help="print one JSON object per line")
        action.add_argument(
            "text",
            nargs="?" if name == "list" else None,
            default="",
            metavar="SIP_USER_ID|CALL_ID|UNIQUE_KEY",
            help="an account, a call_id or a unique_key",
        )
        _add_call_filters(action, limit=name == "list")
        action.set_defaults(run=_calls, command=name)


def _add_call_filters(parser: argparse.ArgumentParser, *, limit: bool) -> None:
    now = time.time()
    when = "30m, 2h or 3d ago, or a date and time (UTC)"
    for name, what in (("--since", "calls since then"), ("--until", "calls before that")):
        parser.add_argument(
            name, type=lambda text: moment(text, now), metavar="TIME", help=f"{what}: {when}"
        )
    parser.add_argument("--number", default="", help="calls from this number, as far as it is kept")
    outcomes = sorted({*(outcome.value for outcome in Outcome), "hung-up"})
    parser.add_argument(
        "--outcome",
        choices=outcomes,
        default="",
        metavar="OUTCOME",
        help=f"calls with this outcome: {', '.join(outcomes)}",
    )
    parser.add_argument("--app", default="", help="calls to phones with this app id")
    platforms = [*(platform.value for platform in Platform), "none"]
    parser.add_argument(
        "--platform", choices=platforms, default="", help="calls to phones of this platform"
    )
    if limit:
        parser.add_argument(
            "--limit", type=_positive, default=50, metavar="N", help="at most N (default: 50)"
        )


def _calls(arguments: argparse.Namespace) -> int:
    from middlewared.cli.call_commands import list_calls, show_call
    from middlewared.history.interface import CallSearch

    command = list_calls if arguments.command == "list" else show_call
    wanted = CallSearch(
        text=arguments.text,
        number=arguments.number,
        outcome=arguments.outcome,
        app=arguments.app,
        platform=arguments.platform,
        since=arguments.since,
        until=arguments.until,
        limit=arguments.limit if arguments.command == "list" else 1,
    )
    return command(_config(arguments), wanted, as_json=arguments.json)


def _add_devices(commands: Commands) -> None:
    parser = commands.add_parser("devices", help="list, show or delete registered devices")
    actions = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, help_text in (
        ("list", "list devices"),
        ("show", "show the device of an account, its events and last calls"),
        ("delete", "delete the device of an account"),
    ):
        action = actions.add_parser(name, help=help_text)
        _add_config(action)
        action.add_argument("--json", action="store_true", help="print one JSON object per line")
        if name == "list":
            _add_device_filters(action)
        else:
            action.add_argument("sip_user_id", metavar="SIP_USER_ID", help="the account")
        action.set_defaults(run=_devices, command=name, parser=action)


def _add_device_filters(parser: argparse.ArgumentParser) -> None:
    """The filters of the list; a device is listed if it matches all that are given."""
    parser.add_argument(
        "--silent",
        type=_positive,
        default=0,
        metavar="N",
        help="devices that did not answer their last N or more calls",
    )
    parser.add_argument(
        "--not-seen-for",
        type=_positive,
        default=0,
        metavar="DAYS",
        help="devices that did not register, check in or answer for this many days",
    )
    parser.add_argument(
        "--shared", action="store_true", help="devices on phones with several accounts"
    )


def _devices(arguments: argparse.Namespace) -> int:
    from middlewared.cli import device_commands

    config = _config(arguments)
    match arguments.command:
        case "list":
            return device_commands.list_devices(
                config,
                silent=arguments.silent,
                not_seen_for_days=arguments.not_seen_for,
                shared=arguments.shared,
                as_json=arguments.json,
            )
        case "show":
            command = device_commands.show_device
        case _:
            command = device_commands.delete_device
    return command(config, _account(arguments, config), as_json=arguments.json)


def _add_import(commands: Commands) -> None:
    parser = commands.add_parser(
        "import-devices", help="import the device table of vialer-middleware"
    )
    _add_config(parser)
    parser.add_argument("file", type=Path, metavar="FILE.csv", help="its exported table")
    parser.set_defaults(run=_import)


def _import(arguments: argparse.Namespace) -> int:
    from middlewared.cli.device_commands import import_from

    return import_from(_config(arguments), arguments.file)


def _add_passwd(commands: Commands) -> None:
    parser = commands.add_parser(
        "passwd", help="set a user's password in a file of USER:bcrypt lines"
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="created if it does not exist")
    parser.add_argument("user", metavar="USER", help="a console user, or an account")
    parser.set_defaults(run=_passwd)


def _passwd(arguments: argparse.Namespace) -> int:
    from middlewared.cli.passwd_command import set_password

    return set_password(arguments.file, arguments.user)


def _add_demo(commands: Commands) -> None:
    parser = commands.add_parser("demo", help="show every kind of call with simulated peers")
    parser.add_argument(
        "--serve",
        action="store_true",
        help="keep running: be the phone, place calls, open the console",
    )
    parser.set_defaults(run=_demo)


def _demo(arguments: argparse.Namespace) -> int:
    from middlewared.demo.run import run_demo

    return run_demo(serve=arguments.serve)


def _account(arguments: argparse.Namespace, config: Config) -> SipUserId:
    """The account of the command line, a text where accounts are texts; others end the command."""
    from middlewared.model import is_text_account

    text: str = arguments.sip_user_id
    pattern = config.accounts.sip_user_id_pattern
    if pattern is not None:
        if not is_text_account(text, pattern):
            arguments.parser.error(
                f"argument SIP_USER_ID: {text!r} does not match sip_user_id_pattern"
            )
        return text
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        arguments.parser.error(f"argument SIP_USER_ID: {text!r} is not a number")
    return int(text)


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text[:7]) > 0 and len(text) <= 6):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 999999")
    return int(text)
