"""Wrappers: strategies around a strategy, whose proposer shows another proposer a history of its own."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from spacelang import ModelSpace, SpaceError
from spacelang.arguments import KnownArguments
from spacelang.trials import History, MultiTrialStrategy, Proposal, Proposer, Stopper, Trial, unused_features


@dataclass(frozen=True)
class Wrapped(KnownArguments):
    """Base of strategies around a strategy.

    Args:
        strategy: The wrapped strategy.
    """

    strategy: MultiTrialStrategy

    def __post_init__(self) -> None:
        if isinstance(self.strategy, type) or not isinstance(self.strategy, MultiTrialStrategy):
            raise SpaceError(
                f"{type(self).__name__} wraps a multi-trial strategy, such as Random(); "
                f"got {self.strategy!r}."
            )

    @property
    def has_end(self) -> bool:
        """Whether searches of the wrapped strategy end by themselves."""
        return getattr(self.strategy, "has_end", False)

    def unused_features(self, space: ModelSpace) -> list[str]:
        """Return the wrapped strategy's sentences on features that the space leaves without effect."""
        return unused_features(self.strategy, space)

    def starter(self, space: ModelSpace) -> Callable[[], Proposer]:
        """Return a function that begins the wrapped strategy's search."""
        return partial(self.strategy.start, space)


class Wrapper(ABC):
    """A proposer that keeps a view, the history as the wrapped proposer sees it.

    In the view trials have numbers of their own, and notes as the wrapped proposer wrote them. In the ledger
    such a note is `{"inner": note}` with entries of the wrapper beside it, among them "parent" where the
    wrapped proposer named one, by its number in the ledger. So wrappers may be wrapped, and
    the view follows from the history alone.

    Args:
        start: Function that begins the wrapped proposer's search.

    Attributes:
        inner: The wrapped proposer.
        places: Numbers of trials in the view, by number in the history.
    """

    def __init__(self, start: Callable[[], Proposer]) -> None:
        self._start = start
        self._reset()

    def _reset(self) -> None:
        """Forget everything."""
        self.inner = self._start()
        self.places: dict[int, int] = {}  # number in the history -> number in the view
        self._view: History | None = None
        self._open: dict[int, Trial] = {}
        self._taken = 0

    @property
    def view(self) -> History:
        """History that the wrapped proposer sees."""
        assert self._view is not None
        return self._view

    def look(self, history: History) -> None:
        """Bring the view up to date."""
        if self._view is None:
            self._view = self.empty_view(history)
            self.begin()
        for number in [*sorted(self._open), *range(self._taken, len(history))]:
            trial = history[number]
            if trial is not self._open.get(number):
                self.take(trial)
            self._open.pop(number, None)
            if not trial.is_finished:
                self._open[number] = trial
        self._taken = len(history)

    def empty_view(self, history: History) -> History:
        """Return a view without trials."""
        return history.of()

    def begin(self) -> None:  # noqa: B027  (most have nothing to do)
        """Fill the view before the first trial."""

    @abstractmethod
    def take(self, trial: Trial) -> None:
        """Show a trial that is new or has changed."""

    def show(self, trial: Trial, place: int | None = None, **changes: Any) -> None:
        """Put a trial into the view, at a place it has or the next free one."""
        number = len(self.view) if place is None else place
        self.view.add(dataclasses.replace(trial, number=number, note=inner_note(trial.note), **changes))

    def noted(self, proposal: Proposal, **entries: Any) -> Proposal:
        """Return a proposal of the wrapped proposer with entries beside its note.

        The trial that it names as its parent has in the history another number than in the view.
        """
        place = proposal.note.get("parent")
        parents = (number for number in reversed(self.places) if self.places[number] == place)
        parent = next(parents, None) if place is not None else None
        inherited = {} if parent is None else {"parent": parent}
        return dataclasses.replace(proposal, note={"inner": proposal.note, **inherited, **entries})

    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        """See `Proposer`."""
        self.look(history)
        return self.propose(rng)

    @abstractmethod
    def propose(self, rng: np.random.Generator) -> Proposal:
        """Return the next proposal; the view is up to date."""

    def goes_on(self, trial: Trial, history: History) -> bool:
        """See `Stopper`; the wrapped proposer decides, if it ever stops a trial."""
        self.look(history)
        shown = dataclasses.replace(trial, number=self.places[trial.number], note=inner_note(trial.note))
        return inner_goes_on(self.inner, shown, self.view)


def inner_goes_on(inner: Proposer, trial: Trial, history: History) -> bool:
    """Return whether a wrapped proposer continues a trial; most never stop one."""
    return not isinstance(inner, Stopper) or inner.goes_on(trial, history)


def same_note(trial: Trial, **entries: Any) -> dict[str, Any]:
    """Return the note of another trial of the same proposal, with other entries of the wrapper."""
    inherited = {"parent": trial.note["parent"]} if "parent" in trial.note else {}
    return {"inner": inner_note(trial.note), **inherited, **entries}


def inner_note(note: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a note that the wrapped proposer wrote."""
    inner: Mapping[str, Any] = note.get("inner", {})
    return inner
