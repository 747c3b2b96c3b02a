"""
The console as JSON, for programs: the same facts and the same verdicts as the pages.
"""

from __future__ import annotations

from typing import Any

import attrs

from middlewared.console.account_reader import AccountReader
from middlewared.console.operator_actions import OperatorActions
from middlewared.console.overview import OverviewReader, overview_json
from middlewared.console.search_parameters import call_search, query_texts
from middlewared.errors import BadRequest
from middlewared.history.interface import HistoryReader
from middlewared.history.json_forms import JsonForms
from middlewared.web.replies import NotFound, Reply, json_reply
from middlewared.web.request import Request


@attrs.frozen(kw_only=True)
class JsonRoutes:
    """What is served below ``/api/``; each method takes a request and what its path names."""

    forms: JsonForms
    history: HistoryReader
    overviews: OverviewReader
    accounts: AccountReader
    actions: OperatorActions

    async def overview(self, request: Request) -> Reply:
        """GET overview."""
        _no_parameters(request)
        return json_reply(200, overview_json(await self.overviews.read(), self.forms))

    async def calls(self, request: Request) -> Reply:
        """GET calls."""
        wanted = call_search(query_texts(request.query))
        found = await self.history.search(wanted)
        calls = [self.forms.call(call) for call in found.calls]
        return json_reply(200, {"calls": calls, "next": found.next})

    async def call(self, request: Request, unique_key: str) -> Reply:
        """GET calls/UNIQUE_KEY."""
        _no_parameters(request)
        call = await self.history.find_call(unique_key)
        if call is None:
            raise NotFound("no such call")
        return json_reply(200, self.forms.call(call))

    async def device(self, request: Request, sip_user_id: str) -> Reply:
        """GET devices/SIP_USER_ID."""
        _no_parameters(request)
        found = await self.accounts.read(sip_user_id, calls=1)
        if not found.known:
            raise NotFound("nothing is known of the account")
        document = self.forms.device(sip_user_id, found.device, found.events, found.last_answered)
        return json_reply(200, document)

    async def remove(self, request: Request, sip_user_id: str) -> Reply:
        """DELETE devices/SIP_USER_ID."""
        _no_parameters(request)
        removed = await self.actions.remove(sip_user_id)
        if removed is None:
            raise NotFound("no device")
        document: dict[str, Any] = {
            "sip_user_id": self.forms.account(sip_user_id),
            "removed": {"platform": removed.platform.value, "app": removed.app},
        }
        return json_reply(200, document)

    async def test_call(self, request: Request, sip_user_id: str) -> Reply:
        """POST devices/SIP_USER_ID/test-call."""
        _no_parameters(request)
        call, over = self.actions.place(sip_user_id)
        await over
        steps = [{"step": step, "milliseconds": took_ms} for step, took_ms in call.steps]
        return json_reply(
            200, {"unique_key": call.unique_key, "outcome": call.outcome, "steps": steps}
        )


def _no_parameters(request: Request) -> None:
    """:raises BadRequest: there are some, which would have no effect."""
    for name in query_texts(request.query):
        raise BadRequest(f"{name[:64]}: no such parameter")
