"""Genetic samplers of Optuna on conditional spaces; only imported where Optuna is."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseGASampler, BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState


class WholeParents(BaseSampler):
    """A genetic sampler whose children inherit conditional parameters too.

    Optuna's own cross the parameters that every trial had, and draw the others at random. Here a parent that
    lacks a parameter gets the value of another that has it, drawn at random, so that all can be crossed as
    usual. The active parameters of a child are suggested, the others dropped.

    Args:
        inner: The genetic sampler.
        seed: Seeds the choice of values that parents lack.
    """

    def __init__(self, inner: BaseGASampler, seed: int) -> None:
        self._inner = inner
        self._rng = np.random.default_rng(seed)
        self._parents: list[FrozenTrial] = []  # of the trial in question

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the parameters that any parent has."""
        generation = self._inner.get_trial_generation(study, trial)
        self._parents = self._inner.get_parent_population(study, generation)
        found = {name: d for parent in self._parents for name, d in parent.distributions.items()}
        return {name: found[name] for name in sorted(found) if not found[name].single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return a child; empty in the first generation."""
        whole = [self._whole(parent, search_space) for parent in self._parents]
        crossing = copy.copy(self._inner)  # the original keeps its parents
        crossing.get_parent_population = lambda study, generation: whole  # type: ignore[method-assign]
        return crossing.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a parameter that the child does not have: no parent has it, or it mutates."""
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Assign a trial its generation, also one with given parameters, for which no child is made."""
        self._inner.get_trial_generation(study, trial)
        self._inner.before_trial(study, trial)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """See `BaseSampler`."""
        self._inner.after_trial(study, trial, state, values)

    def _whole(self, parent: FrozenTrial, names: Iterable[str]) -> FrozenTrial:
        """Return a parent with a value of every parameter."""
        whole = copy.copy(parent)
        whole.params = dict(parent.params)
        for name in names:
            if name not in parent.params:
                having = [other for other in self._parents if name in other.params]
                whole.params[name] = having[self._rng.integers(len(having))].params[name]
        return whole
