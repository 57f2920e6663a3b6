"""Taking decisions one after another in every possible way, without recursion."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

Step: TypeAlias = Callable[[], Iterator[None]]
"""Takes one decision in the next possible way each time it is asked, and undoes it after the last."""


class DeadEndsError(Exception):
    """A walk met too many dead ends."""


def walk(steps: Sequence[Step], most_dead_ends: float = math.inf) -> Iterator[None]:
    """Yield whenever all steps are taken; the last step changes most often.

    Args:
        steps: Steps, each called when those before it are taken.
        most_dead_ends: How often it may go back from a step, apart from once through all of them.

    Raises:
        DeadEndsError: It went back too often.
    """
    if not steps:
        yield
        return
    left, taken = most_dead_ends + len(steps), [steps[0]()]
    while taken:
        if next(taken[-1], _END) is _END:
            taken.pop()
            left -= 1
            if left < 0:
                raise DeadEndsError
        elif len(taken) < len(steps):
            taken.append(steps[len(taken)]())
        else:
            yield


_END = object()
