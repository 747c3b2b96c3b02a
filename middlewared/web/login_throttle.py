"""
Slows down clients that guess credentials.

In a window, no more attempts of one address, or of one name at an address, are refused
than are allowed, because a pending attempt counts as refused until its result is known.

The backend's slots go round among the addresses that wait for one, and first to those that
were not refused lately, so guessers cannot keep others from the backend, however many
addresses they have used. The table holds at most ``max_addresses`` without a pending attempt;
those with one are bounded by the connections.
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

MAX_CONCURRENT = 8
"""Attempts of one address that the backend has at a time."""
MAX_QUEUED = 200
"""Attempts of one address that wait for a slot."""
MAX_QUEUED_S = 5.0
SOON_S = 1.0

T = TypeVar("T")


@attrs.define(eq=False)
class _AddressState:
    """
    The attempts of one address.

    :ivar refusals: in the window that ends at ``ends_at``; ``refused`` counts them by name.
    :ivar pending: counts by name the attempts that are queued or at the backend.
    :ivar asking: how many attempts are at the backend.
    """

    ends_at: float = 0.0
    refusals: int = 0
    refused: Counter[Hashable] = attrs.field(factory=Counter)
    pending: Counter[Hashable] = attrs.field(factory=Counter)
    asking: int = 0
    queue: deque[Deferred[None]] = attrs.field(factory=deque)

    def expire(self, now: float) -> None:
        """Forget the refusals when their window is over."""
        if self.ends_at <= now:
            self.refusals = 0
            self.refused.clear()

    def slots(self, settings: WebSettings) -> int:
        """How many attempts may be at the backend: no more than may still be refused."""
        return min(MAX_CONCURRENT, settings.refusals_allowed_of_address - self.refusals)


class LoginThrottle:
    """
    Passes attempts on to the account backend, only as many as may still be refused.

    :param slots: how many attempts the backend has at a time.
    """

    def __init__(self, *, clock: Clock, slots: int, max_addresses: int = 10_000) -> None:
        self._clock = clock
        self._slots = slots
        self._max_addresses = max_addresses
        self._addresses: OrderedDict[Hashable, _AddressState] = OrderedDict()
        self._asking = 0
        # Addresses that wait for a slot: those that were not refused lately go first.
        self._clean: OrderedDict[_AddressState, None] = OrderedDict()
        self._refused: OrderedDict[_AddressState, None] = OrderedDict()
        self._dispatching = False

    async def attempt(
        self,
        address: Hashable,
        names: Callable[[], Iterable[Hashable]],
        settings: WebSettings,
        ask: Callable[[], Awaitable[T]],
    ) -> T:
        """
        ``ask`` the backend when a slot is free.

        :param names: returns the names that the attempt uses, each with a limit of its own at
            the address; called only when the address is below its limit, since it may parse.
        :raises TooManyRequests: too many were refused or are pending; ``ask`` was not called.
        :raises AccountsDown: the backend had no free slot in time; ``ask`` was not called.
        """
        state = self._state(address)
        self._check_address(state, settings)
        named = Counter(names())
        self._check_names(state, named, settings)
        state.pending += named
        try:
            await self._wait_for_slot(state, settings)
            try:
                return await ask()
            except CredentialsRefused:
                self._count_refusal(state, named, settings)
                raise
            finally:
                self._attempt_ended(state, settings)
        finally:
            state.pending -= named
            self._release(address, state)

    def _state(self, address: Hashable) -> _AddressState:
        """The state of an address, which becomes the most recent one."""
        state = self._addresses.pop(address, None) or _AddressState()
        state.expire(self._clock.seconds())
        self._addresses[address] = state
        if len(self._addresses) > self._max_addresses:
            idle = (known for known, each in self._addresses.items() if not each.pending)
            oldest = next(idle, address)
            if oldest != address:
                del self._addresses[oldest]
        return state

    def _release(self, address: Hashable, state: _AddressState) -> None:
        """Forget an address without pending attempts and recent refusals."""
        state.expire(self._clock.seconds())
        if not state.pending and not state.refusals:
            del self._addresses[address]

    def _check_address(self, state: _AddressState, settings: WebSettings) -> None:
        if state.refusals >= settings.refusals_allowed_of_address:
            raise self._too_many(state)
        if len(state.queue) >= MAX_QUEUED:
            raise TooManyRequests("attempts", SOON_S)

    def _check_names(
        self, state: _AddressState, names: Iterable[Hashable], settings: WebSettings
    ) -> None:
        for name in names:
            if state.refused[name] >= settings.refusals_allowed:
                raise self._too_many(state)
            if state.refused[name] + state.pending[name] >= settings.refusals_allowed:
                raise TooManyRequests("attempts", SOON_S)

    async def _wait_for_slot(self, state: _AddressState, settings: WebSettings) -> None:
        """Wait until the backend has a slot; ``asking`` then counts this attempt."""
        slot: Deferred[None] = Deferred(state.queue.remove)
        state.queue.append(slot)
        self._enqueue(state, settings)
        self._dispatch(settings)
        if slot.called:
            return
        try:
            await with_fair_timeout(slot, MAX_QUEUED_S, self._clock)
        except TimeoutError:
            raise AccountsDown("too many wait for the account backend") from None

    def _count_refusal(
        self, state: _AddressState, names: Iterable[Hashable], settings: WebSettings
    ) -> None:
        now = self._clock.seconds()
        state.expire(now)
        if not state.refusals:
            state.ends_at = now + settings.refusals_window_s
        state.refusals += 1
        state.refused.update(names)

    def _attempt_ended(self, state: _AddressState, settings: WebSettings) -> None:
        """A slot is free again: the next attempt gets it, or fails when it may not be refused."""
        self._asking -= 1
        state.asking -= 1
        while state.queue and state.slots(settings) <= 0:
            state.queue.popleft().errback(self._too_many(state))
        self._enqueue(state, settings)
        self._dispatch(settings)

    def _enqueue(self, state: _AddressState, settings: WebSettings) -> None:
        """Let an address wait for slots if it has queued attempts and may have more slots."""
        if state.queue and state.asking < state.slots(settings):
            if state.refusals:
                self._clean.pop(state, None)
                self._refused.setdefault(state)
            else:
                self._refused.pop(state, None)
                self._clean.setdefault(state)

    def _dispatch(self, settings: WebSettings) -> None:
        if self._dispatching:
            return  # An attempt ended at once; the loop below continues.
        self._dispatching = True
        while self._asking < self._slots and (waiting := self._clean or self._refused):
            state, _ = waiting.popitem(last=False)
            if state.queue and state.asking < state.slots(settings):
                self._asking += 1
                state.asking += 1
                slot = state.queue.popleft()
                self._enqueue(state, settings)
                slot.callback(None)
        self._dispatching = False

    def _too_many(self, state: _AddressState) -> TooManyRequests:
        return TooManyRequests("refusals", max(0.0, state.ends_at - self._clock.seconds()))
