"""
``middlewared demo --serve``: the stage stays up, with commands to play with.

What it prints can be pasted into a shell as it is.
"""

from __future__ import annotations

import signal
from typing import Any

from twisted.internet.defer import Deferred

from middlewared.demo.stage import RELAY_APP, AnyPush, Stage
from middlewared.demo.timeline import Timelines
from middlewared.simulator.apple import ReceivedPush

ACCOUNT = 123456789

_COMMANDS = """\
The daemon stays up at {url}. Accounts answer to any password. Things to try:

  register a phone       curl -u {account}:secret {url}/api/gcm-device/ \\
                           -d sip_user_id={account} -d token=my-phone -d app={app}
  place a call           curl -i {url}/api/incoming-call/ \\
                           -d sip_user_id={account} -d phonenumber=0123456789
  (its push is printed here with the command that answers it)
  how it is              curl {url}/health/
  its metrics            curl {metrics}/metrics
  its API                curl {url}/api/openapi.json

Ctrl-C ends it.
"""


async def serve(reactor: Any, stage: Stage, timelines: Timelines) -> None:
    """Print the commands, and each push that arrives, until SIGINT or SIGTERM."""
    metrics = f"http://{stage.daemon.addresses['metrics']}"
    timelines.print(
        _COMMANDS.format(url=stage.url, metrics=metrics, account=ACCOUNT, app=RELAY_APP)
    )

    def show(push: AnyPush) -> None:
        data = push.payload if isinstance(push, ReceivedPush) else push.data
        if push.token == "my-phone":
            timelines.print(
                f"push {data.get('attempt')} to {push.token}; to answer:\n"
                f"  curl -i {data.get('response_api')} -d unique_key={data.get('unique_key')}"
                f" -d message_start_time={data.get('message_start_time')}\n"
            )

    stage.google.record.listener = show
    interrupted: Deferred[None] = Deferred()

    def interrupt(*_: object) -> None:
        if not interrupted.called:
            reactor.callFromThread(interrupted.callback, None)

    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)
    }
    await interrupted
    for number, handler in before.items():
        signal.signal(number, handler)
