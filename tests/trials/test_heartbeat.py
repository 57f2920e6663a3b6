"""The heartbeat: retries with longer and longer pauses, and gives up loudly. The clock is the test's."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest

from spacelang import SpaceError
from spacelang.trials.heartbeat import Heartbeat, patiently
from spacelang.trials.ledger import LedgerUnavailable


class Time:
    """A clock that runs only while somebody waits."""

    def __init__(self, end: float = 1000.0) -> None:
        self.now = 0.0
        self.end = end

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        """Let seconds pass; return whether the end is reached."""
        self.now += seconds
        return self.now >= self.end


def beats(time: Time, renew: Callable[[], None]) -> Heartbeat:
    heart = Heartbeat("me", renew, 60.0, clock=time, wait=time.wait)
    heart.start()
    heart.stop()
    return heart


class Renewals:
    """Renewals of which some fail, and the moments of all."""

    def __init__(self, time: Time, fails: Callable[[float], bool]) -> None:
        self.time = time
        self.fails = fails
        self.moments: list[float] = []

    def __call__(self) -> None:
        self.moments.append(self.time())
        if self.fails(self.time()):
            raise LedgerUnavailable("the ledger 'x' failed: no answer", "Try later.")


def test_it_beats_four_times_a_lease() -> None:
    time = Time(end=70)
    renew = Renewals(time, lambda now: False)
    assert beats(time, renew).failure is None
    assert renew.moments == [15, 30, 45, 60]


def test_it_tries_again_with_longer_pauses_and_says_so_once() -> None:
    time = Time(end=70)
    renew = Renewals(time, lambda now: 20 < now < 40)
    with pytest.warns(UserWarning, match="the ledger 'x' failed: no answer; trying again for 45 s") as said:
        heart = beats(time, renew)
    assert heart.failure is None
    heart.require()
    assert renew.moments == [15, 30, 31, 33, 37, 45, 60]
    assert len(said) == 1


def test_it_gives_up_when_the_leases_have_run_out() -> None:
    time = Time()
    renew = Renewals(time, lambda now: now > 20)
    with pytest.warns(UserWarning, match="trying again"):
        heart = beats(time, renew)
    assert renew.moments == [15, 30, 31, 33, 37, 45, 61, 75]  # the last renewal was at 15
    with pytest.raises(SpaceError, match=r"leases ran out.*: the ledger 'x' failed: no answer\. Try later\."):
        heart.require()


def test_whatever_ends_it_is_its_failure() -> None:
    def renew() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        beats(Time(), renew).require()


def test_it_stops_at_once_between_two_tries() -> None:
    time = Time(end=32)
    renew = Renewals(time, lambda now: True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        beats(time, renew)
    assert renew.moments == [15, 16, 18, 22, 30]


def test_without_patience_a_call_is_made_once() -> None:
    time = Time()
    renew = Renewals(time, lambda now: True)
    with pytest.raises(LedgerUnavailable):
        patiently(renew, seconds=0, clock=time, wait=time.wait)
    assert renew.moments == [0]
