"""Proposals that are not worth a trial: repetitions, rejections of a filter, and poor predictions."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from spacelang import ModelSpace, SpaceError
from spacelang.costs import CostLimit, expected_cost
from spacelang.errors import require_all, require_integer, require_number
from spacelang.language import Architecture
from spacelang.trials import Exhausted, History, Proposal, Proposer, Rebuilt, Trial

from ..predictors import Encoding, Regressor, check_regressor, one_hot
from ..stateless import require_untried
from .wrapper import Wrapped, Wrapper


@dataclass(frozen=True)
class Deduplicate(Wrapped):
    """Try no architecture twice.

    A repetition is answered from memory: the strategy sees a trial with the known metrics, or without any
    when the first is still running or failed, and proposes again.

    Args:
        strategy: The wrapped strategy.
        tries: Repetitions in a row after which the search ends.
    """

    tries: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("tries", self.tries, least=1)

    def start(self, space: ModelSpace) -> Proposer:
        """Begin a search."""
        return without_repetitions(self.starter(space), self.tries)


def without_repetitions(start: Callable[[], Proposer], tries: int = 1000) -> Proposer:
    """Return the proposer that `start` makes, in a wrapper that tries no architecture twice.

    Args:
        start: Function that begins a search.
        tries: See `Deduplicate`.
    """
    return _Deduplicating(start, tries)


@dataclass(frozen=True)
class Filter(Wrapped):
    """Try accepted architectures alone; the strategy sees the others as infeasible, without trials for them.

    Args:
        strategy: The wrapped strategy.
        accepts: Function that returns whether an architecture may be tried, or a limit on a cost.
        example_inputs: Example for limits on costs that depend on the input, such as FLOPs.
        tries: Rejections in a row after which the search ends.
    """

    accepts: Callable[[Architecture], bool] | CostLimit
    example_inputs: Any = None
    tries: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("tries", self.tries, least=1)
        if not callable(self.accepts) and not isinstance(self.accepts, CostLimit):
            raise SpaceError(
                f"accepts={self.accepts!r} must be a function of an architecture or a CostLimit."
            )

    def start(self, space: ModelSpace) -> Proposer:
        """Begin a search."""
        return _Filtering(self.starter(space), self.tries, self._predicate(space))

    def _predicate(self, space: ModelSpace) -> Callable[[Proposal], bool]:
        if not isinstance(self.accepts, CostLimit):
            accepts = self.accepts
            return lambda proposal: accepts(dict(proposal.arch))
        limit, inputs = self.accepts, () if self.example_inputs is None else self.example_inputs
        costs = Rebuilt(space, lambda rebuilt: expected_cost(rebuilt, limit.metric, inputs))
        costs({})  # refuses before the search a cost that cannot be computed
        return lambda p: limit.excess(costs.concerned(p.arch, p.overrides).of(p.arch)) == 0


@dataclass(frozen=True)
class Promising(Wrapped):
    """Try proposals alone that a regressor of scikit-learn finds promising; the others are not trained.

    A proposal is tried if its predicted score is among the best `share` of those of the last 100 proposals,
    tried or not. After `tries` others in a row one is tried anyway. The strategy sees those that were not
    tried as infeasible. The regressor learns again whenever a trial was measured, with random states from
    that trial's seed. With several objectives the first decides.

    It saves trials where mutations or draws are cheap and often poor. A strategy with a predictor of its own,
    such as `Bananas`, does not need it.

    Args:
        strategy: The wrapped strategy.
        regressor: Unfitted regressor, such as `RandomForestRegressor()`; it is cloned for every fit.
        share: Share of the proposals, in (0, 1], that is tried.
        initial: Measured trials before the first proposal is judged.
        tries: Largest number of proposals that are passed over in a row.
        encode: Function that makes the `Encoding` of a space.
    """

    regressor: Any
    share: float = 0.25
    initial: int = 20
    tries: int = 50
    encode: Callable[[ModelSpace], Encoding] = one_hot

    def __post_init__(self) -> None:
        super().__post_init__()
        check_regressor(self.regressor, "Promising")
        require_number("share", self.share, above=0, most=1)
        require_all(require_integer, self, "initial", "tries", least=1)

    def start(self, space: ModelSpace) -> Proposer:
        """Begin a search."""
        return _Choosing(self, space)


class _Screen(Wrapper):
    """A wrapper that asks again until a proposal passes; the view shows the others, and its note lists them.

    Args:
        start: Function that begins the wrapped proposer's search.
        tries: Largest number of proposals for one `ask`.
    """

    def __init__(self, start: Callable[[], Proposer], tries: int) -> None:
        super().__init__(start)
        self.tries = tries

    def _reset(self) -> None:
        super()._reset()
        self._passed_over: list[dict[str, Any]] = []  # in the view, and not yet in the history

    def take(self, trial: Trial) -> None:
        """Show a trial and, before it, the proposals passed over for it."""
        if trial.number not in self.places:
            self._show_passed_over(trial)
            self.places[trial.number] = len(self.view)
        self.show(trial, self.places[trial.number])

    def _show_passed_over(self, trial: Trial) -> None:
        noted = list(trial.note.get("passed_over", ()))
        if self._passed_over and json.dumps(noted) != json.dumps(self._passed_over):
            raise _Overtaken
        for entry in noted[len(self._passed_over) :]:
            self._pass_over(entry)
        self._passed_over = []

    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        """See `Proposer`."""
        try:
            return super().ask(history, rng)
        except _Overtaken:  # another process took the number of the last proposal
            self._reset()
            return super().ask(history, rng)

    def propose(self, rng: np.random.Generator) -> Proposal:
        """Return the first of the wrapped proposer's proposals that passes."""
        for _ in range(self.tries):
            self.check_any_is_left()
            proposal = self.inner.ask(self.view, rng)
            decisions = self.view.decisions(proposal.overrides)
            proposal = replace(proposal, arch=decisions.canonical(proposal.arch))
            if self.passes(proposal):
                return self.noted(proposal, passed_over=self._passed_over)
            entry = self._entry(proposal)
            self._pass_over(entry)
            self._passed_over = [*self._passed_over, entry]
        raise Exhausted(f"none of {self.tries} proposals in a row was {self.wanted}")

    def _entry(self, proposal: Proposal) -> dict[str, Any]:
        """Return a note's entry, with the answer: a running trial may have ended when the note is read."""
        kept = {"arch": proposal.arch, "max_epochs": proposal.max_epochs, "note": dict(proposal.note)}
        if proposal.overrides:
            kept["overrides"] = dict(proposal.overrides)
        return {**kept, **self.answer(proposal)}

    def _pass_over(self, entry: Mapping[str, Any]) -> None:
        self.view.add(Trial(number=len(self.view), seed=0, **entry))

    wanted: str

    def check_any_is_left(self) -> None:
        """Raise `Exhausted` when no proposal can pass any more."""

    @abstractmethod
    def passes(self, proposal: Proposal) -> bool:
        """Return whether a proposal is tried."""

    @abstractmethod
    def answer(self, proposal: Proposal) -> Mapping[str, Any]:
        """Return how the view shows a proposal that is not tried."""


class _Overtaken(Exception):
    pass


class _Deduplicating(_Screen):
    wanted = "new"

    def check_any_is_left(self) -> None:
        require_untried(self.view)

    def passes(self, proposal: Proposal) -> bool:
        return self.view.find(proposal.arch, proposal.overrides) is None

    def answer(self, proposal: Proposal) -> Mapping[str, Any]:
        known = self.view.find(proposal.arch, proposal.overrides)
        if known is None or not known.is_finished:
            return {"state": "infeasible"}
        return {"state": known.state, "metrics": dict(known.metrics)}


class _Filtering(_Screen):
    wanted = "accepted by the filter"

    def __init__(
        self, start: Callable[[], Proposer], tries: int, accepts: Callable[[Proposal], bool]
    ) -> None:
        super().__init__(start, tries)
        self.accepts = accepts

    def passes(self, proposal: Proposal) -> bool:
        return self.accepts(proposal)

    def answer(self, proposal: Proposal) -> Mapping[str, Any]:
        return {"state": "infeasible"}


_COMPARED = 100  # proposals


class _Choosing(_Screen):
    wanted = "promising"

    def __init__(self, settings: Promising, space: ModelSpace) -> None:
        super().__init__(settings.starter(space), settings.tries + 1)  # the last one passes
        self.settings = settings
        self._predictor = Regressor(settings.regressor, settings.encode(space))
        self._fitted = -1  # number of measured trials that the regressor knows

    def passes(self, proposal: Proposal) -> bool:
        measured = [t for t in self.view.done if not t.overrides and self.view.has_scores(t)]
        enough = len(measured) >= self.settings.initial
        if not enough or proposal.overrides or len(self._passed_over) >= self.settings.tries:
            return True
        if self._fitted != len(measured):
            scores = np.array([self.view.score(trial) for trial in measured])
            rng = np.random.default_rng(measured[-1].seed)
            self._predictor.fit([trial.arch for trial in measured], scores, rng)
            self._fitted = len(measured)
        places = range(max(0, len(self.view) - _COMPARED), len(self.view))
        others = [self.view[place].arch for place in places if not self.view[place].overrides]
        predicted = self._predictor.predict([proposal.arch, *others])[0]
        return bool(predicted[0] >= np.quantile(predicted[1:], 1 - self.settings.share))

    def answer(self, proposal: Proposal) -> Mapping[str, Any]:
        return {"state": "infeasible"}
