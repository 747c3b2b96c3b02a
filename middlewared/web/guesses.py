"""
Slows down those who guess credentials.

The one invariant: of one address, and of one name at an address, never more attempts are
refused in a window than are allowed, because an attempt under way counts as refused until
it is known not to be.

The backend's places go round among the addresses that want one, and first to those that
were not refused lately, so that guessers cannot keep others from it, however many
addresses they have used. The table holds no more than ``max_addresses`` that have no
attempt under way; those that have are bounded by the connections.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Hashable, Iterable
from typing import TypeVar

import attrs
from twisted.internet.defer import Deferred, TimeoutError

from middlewared.clock import Clock
from middlewared.errors import AccountsDown, CredentialsRefused
from middlewared.waiting import with_fair_timeout
from middlewared.web.replies import TooManyRequests
from middlewared.web.settings import WebSettings

AT_ONCE = 8
"""Attempts of one address that the backend has at a time."""
MOST_IN_LINE = 200
LONGEST_IN_LINE_S = 5.0
SOON_S = 1.0

T = TypeVar("T")


@attrs.define(eq=False)
class _Guesser:
    """
    One address.

    ``refused`` in the window that ends at ``ends_at`` and ``pending`` (in line, or being
    asked) count by name. ``asking`` attempts have been let in to the backend.
    """

    ends_at: float = 0.0
    refusals: int = 0
    refused: Counter[Hashable] = attrs.field(factory=Counter)
    pending: Counter[Hashable] = attrs.field(factory=Counter)
    asking: int = 0
    line: deque[Deferred[None]] = attrs.field(factory=deque)

    def renew(self, now: float) -> None:
        """Forget the refusals of a window that is over."""
        if self.ends_at <= now:
            self.refusals = 0
            self.refused.clear()

    def places(self, settings: WebSettings) -> int:
        """How many attempts may be asked at once: no more than may still be refused."""
        return min(AT_ONCE, settings.refusals_allowed_of_address - self.refusals)


class Guesses:
    """
    Lets attempts in to the account backend, as many as may still be refused.

    :param places: how many attempts the backend has at a time.
    """

    def __init__(self, *, clock: Clock, places: int, max_addresses: int = 10_000) -> None:
        self._clock = clock
        self._places = places
        self._max_addresses = max_addresses
        self._guessers: OrderedDict[Hashable, _Guesser] = OrderedDict()
        self._asking = 0
        # Whose turn it is: first those that were not refused lately, then the others.
        self._clean: OrderedDict[_Guesser, None] = OrderedDict()
        self._refused: OrderedDict[_Guesser, None] = OrderedDict()
        self._letting_in = False

    async def attempt(
        self,
        address: Hashable,
        names: Callable[[], Iterable[Hashable]],
        settings: WebSettings,
        ask: Callable[[], Awaitable[T]],
    ) -> T:
        """
        ``ask`` the backend, when it is this attempt's turn.

        :param names: gives whom the attempt is for, which may be costly to find out; each
            has a limit of its own at the address.
        :raises TooManyRequests: nobody was asked.
        :raises AccountsDown: the same; the backend had no place in time.
        """
        guesser = self._guesser(address)
        self._check_address(guesser, settings)
        named = Counter(names())
        self._check_names(guesser, named, settings)
        guesser.pending += named
        try:
            await self._turn(guesser, settings)
            try:
                return await ask()
            except CredentialsRefused:
                self._count(guesser, named, settings)
                raise
            finally:
                self._ended(guesser, settings)
        finally:
            guesser.pending -= named
            self._leave(address, guesser)

    def _guesser(self, address: Hashable) -> _Guesser:
        """What is known of an address, from now on the one that was seen last."""
        guesser = self._guessers.pop(address, None) or _Guesser()
        guesser.renew(self._clock.seconds())
        self._guessers[address] = guesser
        if len(self._guessers) > self._max_addresses:
            idle = (known for known, each in self._guessers.items() if not each.pending)
            oldest = next(idle, address)
            if oldest != address:
                del self._guessers[oldest]
        return guesser

    def _leave(self, address: Hashable, guesser: _Guesser) -> None:
        """Only those that were refused lately are remembered."""
        guesser.renew(self._clock.seconds())
        if not guesser.pending and not guesser.refusals:
            del self._guessers[address]

    def _check_address(self, guesser: _Guesser, settings: WebSettings) -> None:
        if guesser.refusals >= settings.refusals_allowed_of_address:
            raise self._too_late(guesser)
        if len(guesser.line) >= MOST_IN_LINE:
            raise TooManyRequests("attempts", SOON_S)

    def _check_names(
        self, guesser: _Guesser, names: Iterable[Hashable], settings: WebSettings
    ) -> None:
        for name in names:
            if guesser.refused[name] >= settings.refusals_allowed:
                raise self._too_late(guesser)
            if guesser.refused[name] + guesser.pending[name] >= settings.refusals_allowed:
                raise TooManyRequests("attempts", SOON_S)

    async def _turn(self, guesser: _Guesser, settings: WebSettings) -> None:
        """Wait until the backend may be asked; ``asking`` then counts this attempt."""
        turn: Deferred[None] = Deferred(guesser.line.remove)
        guesser.line.append(turn)
        self._queue(guesser, settings)
        self._let_in(settings)
        if turn.called:
            return
        try:
            await with_fair_timeout(turn, LONGEST_IN_LINE_S, self._clock)
        except TimeoutError:
            raise AccountsDown("too many wait for the account backend") from None

    def _count(self, guesser: _Guesser, names: Iterable[Hashable], settings: WebSettings) -> None:
        now = self._clock.seconds()
        guesser.renew(now)
        if not guesser.refusals:
            guesser.ends_at = now + settings.refusals_window_s
        guesser.refusals += 1
        guesser.refused.update(names)

    def _ended(self, guesser: _Guesser, settings: WebSettings) -> None:
        """The backend has a place again; who waits is let in, or hears that it is too late."""
        self._asking -= 1
        guesser.asking -= 1
        while guesser.line and guesser.places(settings) <= 0:
            guesser.line.popleft().errback(self._too_late(guesser))
        self._queue(guesser, settings)
        self._let_in(settings)

    def _queue(self, guesser: _Guesser, settings: WebSettings) -> None:
        """An address that wants a place, and may have one, waits for its turn."""
        if guesser.line and guesser.asking < guesser.places(settings):
            if guesser.refusals:
                self._clean.pop(guesser, None)
                self._refused.setdefault(guesser)
            else:
                self._refused.pop(guesser, None)
                self._clean.setdefault(guesser)

    def _let_in(self, settings: WebSettings) -> None:
        if self._letting_in:
            return  # One that was let in has ended at once: the loop below goes on.
        self._letting_in = True
        while self._asking < self._places and (waiting := self._clean or self._refused):
            guesser, _ = waiting.popitem(last=False)
            if guesser.line and guesser.asking < guesser.places(settings):
                self._asking += 1
                guesser.asking += 1
                turn = guesser.line.popleft()
                self._queue(guesser, settings)
                turn.callback(None)
        self._letting_in = False

    def _too_late(self, guesser: _Guesser) -> TooManyRequests:
        return TooManyRequests("refusals", max(0.0, guesser.ends_at - self._clock.seconds()))
