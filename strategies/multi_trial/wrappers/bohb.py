"""BOHB: Hyperband whose architectures a model proposes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from spacelang import ModelSpace, SpaceError
from spacelang.arguments import KnownArguments
from spacelang.errors import require_integer, require_number
from spacelang.trials import History, Proposal, Proposer, Trial

from ..optuna import Optuna
from ..stateless import require_untried
from .fidelity import Hyperband
from .wrapper import Wrapper


@dataclass(frozen=True, kw_only=True)
class BOHB(KnownArguments):
    """Hyperband whose new architectures are those that good ones of the largest informed budget suggest.

    A share of them is random. The others come from the tree-structured Parzen estimator of Optuna, which
    models good trials and the rest. It learns from those trials whose budget is the largest of which
    `min_points` were measured, or larger: an architecture counts once, with its value at the largest budget
    it has reached. Until a budget has as many, all are random.

    Differs from the authors' code: the estimator is Optuna's, which counts the best tenth as good where
    theirs takes 15 percent, and a value at a smaller budget is forgotten when the architecture is trained for
    longer.

    Args:
        max_epochs: Epochs of the last rung.
        min_epochs: Least epochs of the first rung.
        eta: Share 1 / eta of a rung reaches the next, which has eta times as many epochs.
        random_fraction: Share of new architectures that are drawn at random.
        min_points: Measured trials from which a budget is modelled; None for one more than there are
            decisions.
        candidates: Samples of the model, of which the best is proposed.

    Source: Falkner et al. 2018, arXiv:1807.01774, algorithm 2; defaults from its appendix.
    """

    max_epochs: int
    min_epochs: int = 1
    eta: int = 3
    random_fraction: float = 1 / 3
    min_points: int | None = None
    candidates: int = 64

    def __post_init__(self) -> None:
        require_number("random_fraction", self.random_fraction, least=0, most=1)
        require_integer("min_points", self.min_points, least=1, optional=True)
        require_integer("candidates", self.candidates, least=1)
        Hyperband(self.model, self.max_epochs, self.min_epochs, self.eta)  # checks the rest

    @property
    def model(self) -> Optuna:
        """The estimator as a strategy."""
        try:
            from optuna.samplers import TPESampler
        except ImportError as error:
            raise SpaceError("BOHB needs the package optuna: pip install 'spacelang-nas[optuna]'.") from error
        return Optuna(
            functools.partial(
                TPESampler,
                n_startup_trials=0,
                n_ei_candidates=self.candidates,
                multivariate=True,
                group=True,
            )
        )

    def start(self, space: ModelSpace) -> Proposer:
        """Begin a search."""
        return Hyperband(_Modelled(self), self.max_epochs, self.min_epochs, self.eta).start(space)


@dataclass(frozen=True)
class _Modelled(KnownArguments):
    """The strategy inside the brackets.

    Args:
        settings: Settings of BOHB.
    """

    settings: BOHB

    def start(self, space: ModelSpace) -> Proposer:
        """Begin a search."""
        points = self.settings.min_points or len(space.decisions) + 1
        return _Modelling(functools.partial(self.settings.model.start, space), self.settings, points)


class _Modelling(Wrapper):
    """A wrapper that shows trials of large budgets alone; the others count as failed, which teaches nothing.

    Args:
        start: Function that begins the model's search.
        settings: Settings of BOHB.
        points: Measured trials from which a budget is modelled.
    """

    def __init__(self, start: Callable[[], Proposer], settings: BOHB, points: int) -> None:
        self.settings = settings
        self.points = points
        self.budget = math.inf
        super().__init__(start)

    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        """See `Proposer`."""
        require_untried(history)
        budget = self._informed(history)
        if budget != self.budget:  # trials look otherwise now
            self.budget = budget
            self._reset()
        if budget == math.inf or rng.random() < self.settings.random_fraction:
            return Proposal(history.space.sample(rng))
        return super().ask(history, rng)

    def _informed(self, history: History) -> float:
        """Return the largest budget of which enough trials were measured; infinity for none."""
        budgets = sorted((_budget(t) for t in history.done if history.has_scores(t)), reverse=True)
        return budgets[self.points - 1] if len(budgets) >= self.points else math.inf

    def take(self, trial: Trial) -> None:
        """Show a trial, as failed where its budget is too small."""
        self.places[trial.number] = trial.number
        hidden: dict[str, Any] = {"state": "failed", "metrics": {}}
        is_small = trial.state == "done" and _budget(trial) < self.budget
        self.show(trial, trial.number, **(hidden if is_small else {}))

    def propose(self, rng: np.random.Generator) -> Proposal:
        """Return a proposal of the model."""
        return self.noted(self.inner.ask(self.view, rng))


def _budget(trial: Trial) -> float:
    return math.inf if trial.max_epochs is None else float(trial.max_epochs)
