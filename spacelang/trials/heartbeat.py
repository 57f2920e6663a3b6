"""Heartbeat: the thread that keeps running trials claimed; patience with a database that does not answer."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable
from typing import TypeVar

from ..errors import SpaceError
from .ledger import LedgerUnavailable

T = TypeVar("T")

_FIRST_PAUSE = 1.0  # seconds; each further one is twice as long


def patiently(
    call: Callable[[], T],
    *,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
    wait: Callable[[float], object] = time.sleep,
) -> T:
    """Return what a call to the ledger returns; while the ledger does not answer, call again.

    Args:
        call: Call to make.
        seconds: Time after which the call is not made again; the first failure is said in a warning.
        clock: Returns seconds that pass evenly.
        wait: Waits for seconds; returns whether to give up at once.

    Raises:
        LedgerUnavailable: The ledger did not answer in that time.
    """
    deadline, pause = clock() + seconds, 0.0
    while True:
        try:
            return call()
        except LedgerUnavailable as error:
            left = deadline - clock()
            if left <= 0:
                raise
            if not pause:
                warnings.warn(f"{error.reason}; trying again for {left:.0f} s", stacklevel=2)
            pause = min(2 * pause or _FIRST_PAUSE, left)
            if wait(pause):
                raise


class Heartbeat:
    """A thread that renews the leases of running trials, four times in the time of a lease.

    When the ledger does not answer it tries again, with longer and longer pauses, until the leases run out.
    Whatever ends it before `stop` is its `failure`.

    Args:
        name: Name of the owner, and of the thread, by which others see that the owner lives.
        renew: Renews the leases.
        lease: Seconds of a lease.
        clock: Returns seconds that pass evenly.
        wait: Waits for seconds; returns whether to stop. By default until `stop` is called.
    """

    def __init__(
        self,
        name: str,
        renew: Callable[[], None],
        lease: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        self.failure: Exception | None = None
        self._renew = renew
        self._lease = lease
        self._clock = clock
        self._stop = threading.Event()
        self._wait = wait or self._stop.wait
        self._thread = threading.Thread(target=self._live, daemon=True, name=name)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def stop(self) -> None:
        """End, after the renewal that is under way."""
        self._stop.set()
        self._thread.join()

    def fail(self, error: Exception) -> None:
        """Note that the ledger was found lost elsewhere; the first failure counts."""
        self.failure = self.failure or error

    def require(self) -> None:
        """Raise the failure if there is one."""
        if self.failure is not None:
            raise self.failure

    def _live(self) -> None:
        pause = self._lease / 4
        try:
            while not self._wait(pause):
                patiently(self._renew, seconds=self._lease - pause, clock=self._clock, wait=self._wait)
        except LedgerUnavailable as error:
            self.fail(SpaceError(f"the search ends, because its trials' leases ran out: {error}"))
        except Exception as error:  # whatever it is, the trials are not kept any longer
            self.fail(error)
