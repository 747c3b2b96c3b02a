"""
The console script ``middlewared``: what an operator does beside running the daemon.

A command ends with 0 when it did what its name says, with 1 and a plain line on standard error
when it did not, and never with a traceback for bad input.
"""

from __future__ import annotations

import argparse
import os
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
    except BrokenPipeError:  # as "devices list | head" gives it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="middlewared", description=__doc__.splitlines()[1])
    parser.add_argument("--version", action="version", version=f"middlewared {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    check = commands.add_parser("check", help="judge a configuration; print every problem")
    _add_config(check)
    check.add_argument(
        "--online",
        action="store_true",
        help="also contact Apple, Google, account API, database and Redis; no phone gets a push",
    )
    check.set_defaults(run=_check)

    migrate = commands.add_parser("migrate", help="create or upgrade the database's schema")
    _add_config(migrate)
    migrate.set_defaults(run=_migrate)

    push = commands.add_parser("push", help="place a test call through the running daemon")
    _add_config(push)
    push.add_argument("--url", help="the daemon's base URL, where [http] tells no address")
    push.add_argument(
        "--phonenumber", default="anonymous", help="the caller that the phone shows (anonymous)"
    )
    push.add_argument("sip_user_id", type=_account, metavar="SIP_USER_ID")
    push.set_defaults(run=_push)

    devices = commands.add_parser("devices", help="look into the device registry")
    _add_device_commands(devices)

    importing = commands.add_parser(
        "import-devices", help="import the device table of vialer-middleware"
    )
    _add_config(importing)
    importing.add_argument("file", type=Path, metavar="FILE.csv")
    importing.set_defaults(run=_import_devices)

    demo = commands.add_parser("demo", help="show every kind of call on simulated peers")
    demo.add_argument("--serve", action="store_true", help="stay up, with curl commands to play")
    demo.set_defaults(run=_demo)
    return parser


def _add_device_commands(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, help_text in (
        ("list", "all devices"),
        ("show", "the device of an account"),
        ("delete", "remove the device of an account"),
    ):
        command = commands.add_parser(name, help=help_text)
        _add_config(command)
        command.add_argument("--json", action="store_true", help="one JSON object a line")
        if name != "list":
            command.add_argument("sip_user_id", type=_account, metavar="SIP_USER_ID")
        else:
            _add_device_filters(command)
        command.set_defaults(run=_devices, command=name)


def _add_device_filters(parser: argparse.ArgumentParser) -> None:
    """Filters of the list; a device must match all that are given."""
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


def _account(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return int(text)


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text[:7]) > 0 and len(text) <= 6):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 999999")
    return int(text)


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
    if not arguments.online:
        return 0
    from middlewared.cli.check.online import check_online

    return check_online(config)


def _migrate(arguments: argparse.Namespace) -> int:
    from middlewared.cli.reactor import migrate
    from middlewared.service.options import read_all

    return migrate(read_all(arguments.config))


def _push(arguments: argparse.Namespace) -> int:
    from middlewared.cli.push_command import push
    from middlewared.service.options import read_all

    return push(
        read_all(arguments.config),
        arguments.sip_user_id,
        phonenumber=arguments.phonenumber,
        url=arguments.url,
    )


def _devices(arguments: argparse.Namespace) -> int:
    from middlewared.cli import device_commands
    from middlewared.service.options import read_all

    config = read_all(arguments.config)
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
    return command(config, arguments.sip_user_id, as_json=arguments.json)


def _import_devices(arguments: argparse.Namespace) -> int:
    from middlewared.cli.device_commands import import_from
    from middlewared.service.options import read_all

    return import_from(read_all(arguments.config), arguments.file)


def _demo(arguments: argparse.Namespace) -> int:
    from middlewared.demo.run import run_demo

    return run_demo(serve=arguments.serve)


def _complain(*problems: str) -> int:
    for problem in problems:
        print(problem, file=sys.stderr)  # noqa: T201
    return 1
