"""The limits on guessing credentials, on a clock that the test moves."""

from __future__ import annotations

from collections.abc import Coroutine, Hashable
from functools import partial

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from middlewared.errors import AccountsDown, CredentialsRefused
from middlewared.web.login_throttle import MAX_CONCURRENT, MAX_QUEUED, MAX_QUEUED_S, LoginThrottle
from middlewared.web.replies import TooManyRequests
from middlewared.web.settings import WebSettings

OF_ADDRESS = 60
OF_NAME = 10


class LoginThrottleCase(SynchronousTestCase):
    """A backend whose answers come from the test."""

    settings = WebSettings()

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.throttle = LoginThrottle(clock=self.clock, slots=100, max_addresses=3)
        self.asked: list[Deferred[str]] = []
        self.attempts: list[Deferred[str]] = []
        self.addCleanup(self.give_up)

    def give_up(self) -> None:
        """Cancel what is still under way."""
        for attempt in self.attempts:
            if not attempt.called:
                attempt.cancel()
                self.failureResultOf(attempt, CancelledError)

    def keep(self, attempt: Coroutine[Deferred[object], object, str]) -> Deferred[str]:
        """Begin an attempt, which is ended with the test."""
        self.attempts.append(Deferred.fromCoroutine(attempt))
        return self.attempts[-1]

    def attempt(
        self, name: Hashable, *, address: Hashable = "here", at_once: Exception | None = None
    ) -> Deferred[str]:
        """One attempt for a login; ``at_once`` is how the backend fails without a wait."""

        async def ask() -> str:
            if at_once is not None:
                raise at_once
            answer: Deferred[str] = Deferred()
            self.asked.append(answer)
            return await answer

        return self.keep(self.throttle.attempt(address, lambda: [name], self.settings, ask))

    def refuse(self, count: int, *, address: Hashable = "here", name: Hashable = None) -> None:
        """So many refused guesses, each for a name of its own unless ``name`` is given."""
        for number in range(count):
            guess = self.attempt(
                name or ("login", self.clock.seconds(), number),
                address=address,
                at_once=CredentialsRefused("no"),
            )
            self.failureResultOf(guess, CredentialsRefused)

    def too_many(self, attempt: Deferred[str]) -> int:
        """The seconds after which a stopped attempt may come again."""
        error = self.failureResultOf(attempt, TooManyRequests).value
        assert isinstance(error, TooManyRequests)
        return error.retry_after_s


class WindowTests(LoginThrottleCase):
    """Refusals that are known."""

    def test_an_address_is_stopped_until_its_window_ends(self) -> None:
        """Whatever it tries; the backend is not asked, and others are not concerned."""
        self.refuse(OF_ADDRESS)
        self.clock.advance(29.5)
        self.assertEqual(self.too_many(self.attempt("any")), 31)
        self.refuse(1, address="there")
        self.clock.advance(30.5)
        self.attempt("any")
        self.assertEqual(len(self.asked), 1)

    def test_a_name_is_stopped_sooner(self) -> None:
        """Other names at the address go on, and so does the name at others."""
        self.refuse(OF_NAME, name="login")
        self.assertEqual(self.too_many(self.attempt("login")), 60)
        self.attempt("other")
        self.attempt("login", address="there")
        self.assertEqual(len(self.asked), 2)

    def test_only_refusals_count(self) -> None:
        """Good credentials and a backend that is down do not."""
        for _ in range(OF_ADDRESS * 2):
            down = self.attempt("login", at_once=AccountsDown("gone"))
            self.failureResultOf(down, AccountsDown)
            good = self.attempt("login")
            self.asked[-1].callback("good")
            self.assertEqual(self.successResultOf(good), "good")

    def test_names_are_not_looked_for_when_the_address_is_stopped(self) -> None:
        """To find them costs more than to refuse."""
        self.refuse(OF_ADDRESS)
        stopped: Coroutine[Deferred[object], object, object] = self.throttle.attempt(
            "here", self.fail, self.settings, self.fail
        )
        self.failureResultOf(Deferred.fromCoroutine(stopped), TooManyRequests)

    def test_other_addresses_do_not_make_a_persistent_guesser_forgotten(self) -> None:
        """The table is bounded; an address that goes on guessing keeps its place in it."""
        self.refuse(OF_ADDRESS)
        for number in range(20):
            self.refuse(1, address=number)
            self.too_many(self.attempt("any"))

    def test_the_table_is_bounded(self) -> None:
        """The address that was seen the longest time ago is forgotten first."""
        for number in range(4):
            self.refuse(OF_ADDRESS, address=number)
        self.too_many(self.attempt("any", address=1))
        self.attempt("any", address=0)
        self.assertEqual(len(self.asked), 1)

    def test_addresses_with_attempts_under_way_are_never_forgotten(self) -> None:
        """Else they could have more of them."""
        for number in range(6):
            for _ in range(OF_NAME):
                self.attempt("login", address=number)
        for number in range(6):
            self.too_many(self.attempt("login", address=number))


class PendingTests(LoginThrottleCase):
    """Attempts whose end is not known."""

    def test_parallel_guesses_for_a_name_count_before_they_are_refused(self) -> None:
        """As many as may be refused are let in, and the rest may come again soon."""
        guesses = [self.attempt("login") for _ in range(1000)]
        for guess in guesses[OF_NAME:]:
            self.assertEqual(self.too_many(guess), 1)
        self.end_all(CredentialsRefused("no"))
        self.assertEqual(len(self.asked), OF_NAME)
        for guess in guesses[:OF_NAME]:
            self.failureResultOf(guess, CredentialsRefused)

    def end_all(self, failure: Exception | None = None) -> None:
        """End what is asked, in order, until nothing more is."""
        for answer in self.asked:  # grows meanwhile
            if failure is None:
                answer.callback("good")
            else:
                answer.errback(type(failure)(*failure.args))

    def test_parallel_guesses_of_an_address_count_before_they_are_refused(self) -> None:
        """A thousand logins at once: no more are asked than may be refused."""
        guesses = [self.attempt(number) for number in range(1000)]
        self.assertEqual(len(self.asked), MAX_CONCURRENT)
        self.end_all(CredentialsRefused("no"))
        self.assertEqual(len(self.asked), OF_ADDRESS)
        for guess in guesses[:OF_ADDRESS]:
            self.failureResultOf(guess, CredentialsRefused)
        for guess in guesses[OF_ADDRESS:]:
            self.too_many(guess)

    def test_many_good_ones_behind_one_address_wait_for_each_other(self) -> None:
        """All phones of an office come back at once: none is refused."""
        attempts = [self.attempt(number) for number in range(MAX_QUEUED + MAX_CONCURRENT)]
        self.assertEqual(self.too_many(self.attempt("one more")), 1)
        self.end_all()
        self.assertEqual({self.successResultOf(each) for each in attempts}, {"good"})

    def test_the_end_of_a_line_may_come_all_at_once(self) -> None:
        """However long it is: a backend that fails without a wait."""
        first = [self.attempt(number) for number in range(MAX_CONCURRENT)]
        down = AccountsDown("full")
        line = [self.attempt(("in line", n), at_once=down) for n in range(MAX_QUEUED)]
        self.asked[0].callback("good")
        self.assertEqual(self.successResultOf(first[0]), "good")
        for each in line:
            self.failureResultOf(each, AccountsDown)
        self.attempt("next")
        self.assertEqual(len(self.asked), MAX_CONCURRENT + 1)

    def test_no_attempt_is_queued_for_ever(self) -> None:
        """A backend that does not answer keeps its slots."""
        for number in range(MAX_CONCURRENT):
            self.attempt(number)
        waiting = self.attempt("login")
        self.clock.pump([MAX_QUEUED_S / 4] * 4 + [0.1])
        self.failureResultOf(waiting, AccountsDown)
        self.asked[0].callback("good")
        self.attempt("login")
        self.assertEqual(len(self.asked), MAX_CONCURRENT + 1)

    def test_a_cancelled_attempt_gives_its_place_up(self) -> None:
        """In line and while the backend is asked."""
        attempts = [self.attempt("login") for _ in range(OF_NAME)]
        for attempt in reversed(attempts):
            attempt.cancel()
            self.failureResultOf(attempt, CancelledError)
        for _ in range(OF_NAME):
            self.attempt("login")
        self.assertEqual(len(self.asked), 2 * MAX_CONCURRENT)
        self.assertEqual(len(self.clock.getDelayedCalls()), OF_NAME - MAX_CONCURRENT)

    def test_attempts_at_the_end_of_a_window_count_in_the_next(self) -> None:
        """Waiting for the end of the window wins nothing."""
        self.refuse(1)
        guesses = [self.attempt("login") for _ in range(MAX_CONCURRENT)]
        self.clock.advance(60)
        self.end_all(CredentialsRefused("no"))
        for guess in guesses:
            self.failureResultOf(guess, CredentialsRefused)
        self.refuse(OF_NAME - MAX_CONCURRENT, name="login")
        self.assertEqual(self.too_many(self.attempt("login")), 60)

    def test_limits_may_be_smaller_than_the_slots(self) -> None:
        """One guess at a time then."""
        self.settings = attrs.evolve(self.settings, refusals_allowed_of_address=1)
        guesses = [self.attempt(number) for number in range(3)]
        self.assertEqual(len(self.asked), 1)
        self.end_all(CredentialsRefused("no"))
        self.failureResultOf(guesses[0], CredentialsRefused)
        for guess in guesses[1:]:
            self.assertEqual(self.too_many(guess), 60)


class SlotsTests(LoginThrottleCase):
    """The backend's slots, which are fewer than the attempts that want one."""

    SLOTS = 2

    def setUp(self) -> None:
        super().setUp()
        self.throttle = LoginThrottle(clock=self.clock, slots=self.SLOTS)
        self.order: list[Hashable] = []

    def want(self, address: Hashable, count: int) -> list[Deferred[str]]:
        """So many attempts of an address; ``order`` shows when they are let in."""

        async def ask() -> str:
            self.order.append(address)
            answer: Deferred[str] = Deferred()
            self.asked.append(answer)
            return await answer

        return [
            self.keep(self.throttle.attempt(address, partial(list, [number]), self.settings, ask))
            for number in range(count)
        ]

    def end_next(self, times: int) -> None:
        """The oldest attempt that the backend has ends well, so many times."""
        for _ in range(times):
            next(answer for answer in self.asked if not answer.called).callback("good")

    def test_slots_are_never_exceeded(self) -> None:
        """And all of them are used while anyone waits."""
        attempts = self.want("a", 5) + self.want("b", 5)
        for _ in range(8):
            self.assertEqual(sum(not answer.called for answer in self.asked), self.SLOTS)
            self.end_next(1)
        self.end_next(2)
        self.assertEqual({self.successResultOf(each) for each in attempts}, {"good"})

    def test_slots_go_round_among_addresses(self) -> None:
        """An address that wants many waits no less for it."""
        self.want("a", 5)
        self.want("b", 2)
        self.want("c", 1)
        self.end_next(8)
        self.assertEqual(self.order, list("aaabcaba"))

    def test_addresses_that_were_not_refused_go_first(self) -> None:
        """Guessers wait for them, however many addresses they have used."""
        for address in range(20):
            self.refuse(1, address=address)
        for address in range(20):
            self.want(address, 5)
        self.want("new", 3)
        self.end_next(4)
        self.assertEqual(self.order, [0, 0, "new", "new", "new", 0])

    def test_cancelled_ones_take_no_turn(self) -> None:
        """The place goes to the next."""
        self.want("a", 2)
        for attempt in self.want("b", 2):
            attempt.cancel()
            self.failureResultOf(attempt, CancelledError)
        self.want("c", 1)
        self.end_next(1)
        self.assertEqual(self.order, ["a", "a", "c"])
