"""
The console for people: what each address shows, and what its forms do.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping

import attrs

from middlewared.calls.interface import OpenCall, OpenCalls
from middlewared.clock import Clock
from middlewared.console import account_page, call_pages, links, overview_pages
from middlewared.console.access import Access
from middlewared.console.account_page import AccountFacts
from middlewared.console.account_reader import AccountReader
from middlewared.console.daemon_reports import DaemonReports
from middlewared.console.live_streams import LiveStreams, Parts
from middlewared.console.operator_actions import OperatorActions
from middlewared.console.overview import OverviewReader
from middlewared.console.search_parameters import call_search, query_texts
from middlewared.console.sources import ConsoleSettings
from middlewared.errors import BadRequest, DatabaseDown
from middlewared.history.interface import HistoryReader
from middlewared.history.json_forms import JsonForms
from middlewared.web.replies import NotFound, Reply
from middlewared.web.request import Request

OVERVIEW_S, ACCOUNT_S, CALL_S = 1.0, 2.0, 0.25
"""How often the state of an open page is looked up."""
WRITTEN_WITHIN_S = 10.0
"""How long a page waits for the record of a call that has just ended."""
_SHOWN_CALLS = 20
_MOST_WATCHED = 200


def html(body: bytes, status: int = 200) -> Reply:
    """A page as a reply."""
    return Reply(status, body, b"text/html; charset=utf-8")


def redirect(path: str) -> Reply:
    """Another page, to be fetched by GET."""
    return Reply(303, b"", headers=((b"Location", path.encode("ascii")),))


@attrs.define(kw_only=True, eq=False)
class PageRoutes:
    """
    Each method takes a request, the user, and what its path names.

    :param settings: returns those that are in force.
    """

    _clock: Clock
    _access: Access
    _forms: JsonForms
    _open_calls: OpenCalls
    _history: HistoryReader
    _reports: DaemonReports
    _overviews: OverviewReader
    _accounts: AccountReader
    _actions: OperatorActions
    _streams: LiveStreams
    _settings: Callable[[], ConsoleSettings]
    _watched: OrderedDict[str, tuple[str, float]] = attrs.field(factory=OrderedDict, init=False)
    """The accounts of calls that were shown while they waited, and when that was last."""

    async def overview(self, request: Request, user: str) -> Reply:
        """GET /, with ?q= a search."""
        texts = query_texts(request.query)
        text = texts.get("q", "").strip()
        if text:
            return await self._search(text, user)
        return html(overview_pages.overview_page(await self._overviews.read(), user))

    async def _search(self, text: str, user: str) -> Reply:
        """The page of what ``text`` names, if it is one thing; else the calls that match."""
        wanted = call_search({"q": text}, lenient=True)
        if self._open_calls.open_call(text) or await self._history.find_call(text):
            return redirect(links.call_path(text))
        found = await self._history.search(attrs.evolve(wanted, limit=50))
        accounts = {call.record.sip_user_id for call in found.calls}
        if accounts == {text} or (await self._accounts.read(text, calls=1)).known:
            return redirect(links.account_path(text))
        if len(found.calls) == 1 and found.calls[0].record.call_id == text:
            return redirect(links.call_path(found.calls[0].record.unique_key))
        held = [call for call in await self._held() if text in (call.sip_user_id, call.call_id)]
        if held and not found.calls:
            return redirect(links.call_path(held[0].unique_key))
        return html(call_pages.calls_page({"q": text}, found, user))

    async def _held(self) -> list[OpenCall]:
        try:
            reports = await self._reports.all()
        except DatabaseDown:
            return list(self._open_calls.open_calls(_SHOWN_CALLS))
        return [call for report in reports for call in report.held]

    async def calls(self, request: Request, user: str) -> Reply:
        """GET /calls: a search with filters."""
        texts = {name: text for name, text in query_texts(request.query).items() if text}
        found = await self._history.search(call_search(texts, lenient=True))
        return html(call_pages.calls_page(texts, found, user))

    async def call(self, request: Request, user: str, unique_key: str) -> Reply:  # noqa: ARG002
        """GET /calls/UNIQUE_KEY."""
        parts = await self._parts_of(unique_key)
        if parts is not None:
            account, content = parts
            return html(call_pages.live_call_page(account, unique_key, content, user))
        kept = await self._history.find_call(unique_key)
        if kept is not None:
            return html(call_pages.kept_call_page(kept, self._forms.call(kept), user))
        placed = self._actions.calls.find(unique_key)
        if placed is not None:  # no history is kept
            content = call_pages.operator_call_parts(placed)
            body = call_pages.ended_test_call_page(str(placed.sip_user_id), content, user)
            return html(body)
        raise NotFound("No such call is kept.")

    async def _parts_of(self, unique_key: str) -> tuple[str, Parts] | None:
        """The account of a call that is not over, and its page's parts; None: it is over."""
        now = self._clock.seconds()
        placed = self._actions.calls.find(unique_key)
        call, daemon = self._open_calls.open_call(unique_key), "this one"
        if call is None and placed is None:
            call, daemon = await self._held_elsewhere(unique_key)
        if call is not None:
            self._note_watched(unique_key, call.sip_user_id, now)
            return call.sip_user_id, call_pages.open_call_parts(call, daemon)
        if placed is not None and placed.outcome is None:
            return str(placed.sip_user_id), call_pages.operator_call_parts(placed)
        account, seen_at = self._watched.get(unique_key, ("", 0.0))
        if not account or now - seen_at > WRITTEN_WITHIN_S or not self._settings().history_days:
            return None
        if await self._history.find_call(unique_key) is not None:
            return None
        return account, {"progress": "The call is over; its record is being written."}

    def _note_watched(self, unique_key: str, account: str, now: float) -> None:
        self._watched[unique_key] = account, now
        self._watched.move_to_end(unique_key)
        if len(self._watched) > _MOST_WATCHED:
            self._watched.popitem(last=False)

    async def _held_elsewhere(self, unique_key: str) -> tuple[OpenCall | None, str]:
        try:
            reports = await self._reports.all()
        except DatabaseDown:
            return None, ""
        for report in reports:
            for call in report.held:
                if call.unique_key == unique_key:
                    return call, report.daemon
        return None, ""

    async def account(self, request: Request, user: str, sip_user_id: str) -> Reply:  # noqa: ARG002
        """GET /accounts/SIP_USER_ID."""
        shown, settings = await self._account(sip_user_id), self._settings()
        if not (shown.known.known or shown.held) and settings.account(sip_user_id) is None:
            raise NotFound("Nothing is known of this account.")
        proof = self._access.proof(user) if user in settings.operators else None
        return html(account_page.account_page(shown, user=user, proof=proof))

    async def _account(self, sip_user_id: str) -> AccountFacts:
        known = await self._accounts.read(sip_user_id, calls=_SHOWN_CALLS)
        held = [call for call in await self._held() if call.sip_user_id == sip_user_id]
        return AccountFacts(sip_user_id=sip_user_id, known=known, held=held)

    async def apps(self, request: Request, user: str) -> Reply:  # noqa: ARG002
        """GET /apps."""
        return html(overview_pages.apps_page(await self._overviews.read(), user))

    async def test_call(self, request: Request, user: str, sip_user_id: str) -> Reply:  # noqa: ARG002
        """POST /accounts/SIP_USER_ID/test-call: begins one, and shows it."""
        call, _ = self._actions.place(sip_user_id)
        self._note_watched(call.unique_key, sip_user_id, self._clock.seconds())
        return redirect(links.call_path(call.unique_key))

    async def remove(self, request: Request, user: str, sip_user_id: str) -> Reply:  # noqa: ARG002
        """POST /accounts/SIP_USER_ID/remove: removes the device that the form was about."""
        token = request.fields().get("token")
        if not isinstance(token, str) or not token:
            raise BadRequest("token: is missing")
        await self._actions.remove(sip_user_id, only=token)
        return redirect(links.account_path(sip_user_id))

    async def live_overview(self, request: Request) -> None:
        """GET /live/overview."""

        async def read() -> Mapping[str, str]:
            return overview_pages.overview_parts(await self._overviews.read())

        await self._streams.serve(request, OVERVIEW_S, read)

    async def live_call(self, request: Request, unique_key: str) -> None:
        """GET /live/calls/UNIQUE_KEY."""

        async def read() -> Parts | None:
            parts = await self._parts_of(unique_key)
            return None if parts is None else parts[1]

        await self._streams.serve(request, CALL_S, read)

    async def live_account(self, request: Request, sip_user_id: str) -> None:
        """GET /live/accounts/SIP_USER_ID."""

        async def read() -> Parts:
            return account_page.account_parts(await self._account(sip_user_id))

        await self._streams.serve(request, ACCOUNT_S, read)
