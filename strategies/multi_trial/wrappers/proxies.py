"""Proxies: cheaper trials, whose ranking stands in for that of full ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from spacelang import ModelSpace, SpaceError
from spacelang.trials import History, Proposal, Proposer, Stopper, Trial, plain_overrides

from .wrapper import Wrapped, Wrapper


@dataclass(frozen=True)
class FewerEpochs(Wrapped):
    """Stop every trial after some epochs; the evaluator must report its metrics after each.

    Epochs that the strategy itself sets, as `Hyperband` does, hold where they are fewer.

    Args:
        strategy: what is wrapped.
        epochs: of a trial, at most.
    """

    epochs: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_count("epochs", 1)

    def start(self, space: ModelSpace) -> Proposer:
        """Begin a search."""
        return _Shortened(self.strategy.start(space), self.epochs)


@dataclass(frozen=True)
class SmallerSpace(Wrapped):
    """Search the space rebuilt with other constructor arguments, such as fewer cells or channels.

    The architectures found are those of the space itself. Costs and constraints of a search are of the model
    in full; trained weights are of the smaller one, so an exported instance gets new ones.

    Args:
        strategy: searches the smaller space.
        overrides: constructor arguments, plain values: `SmallerSpace(Random(), {"width": 4})`.
    """

    overrides: Mapping[str, Any]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.overrides, Mapping) or not self.overrides:
            raise SpaceError(
                f"overrides={self.overrides!r}; expected constructor arguments of the space by name, "
                "such as {'width': 4}."
            )
        object.__setattr__(self, "overrides", plain_overrides(self.overrides))

    def start(self, space: ModelSpace) -> Proposer:
        """Begin a search.

        Raises:
            SpaceError: the space does not take these arguments; with them its architectures are others.
        """
        smaller = space.rebuild(**self.overrides)
        problems = space.decision_space.problems(smaller.default())
        if problems:
            raise SpaceError(
                f"{type(space).__name__} rebuilt with {dict(self.overrides)!r} has architectures that are "
                f"none of the space itself, so they could not be exported: {problems[0]}"
            )
        return _Smaller(partial(self.strategy.start, smaller), self.overrides)


class _Shortened:
    """Sets the epochs of every proposal; the wrapped proposer sees the history as it is."""

    def __init__(self, inner: Proposer, epochs: int) -> None:
        self.inner = inner
        self.epochs = epochs

    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        proposal = self.inner.ask(history, rng)
        epochs = self.epochs if proposal.max_epochs is None else min(self.epochs, proposal.max_epochs)
        return replace(proposal, max_epochs=epochs)

    def goes_on(self, trial: Trial, history: History) -> bool:
        return not isinstance(self.inner, Stopper) or self.inner.goes_on(trial, history)


class _Smaller(Wrapper):
    """Shows trials as if the smaller space were all there is."""

    def __init__(self, start: Callable[[], Proposer], overrides: Mapping[str, Any]) -> None:
        super().__init__(start)
        self.overrides = overrides

    def empty_view(self, history: History) -> History:
        return history.of(overrides=self.overrides)

    def take(self, trial: Trial) -> None:
        self.places[trial.number] = trial.number
        self.show(trial, trial.number, overrides=self._inner_overrides(trial))

    def goes_on(self, trial: Trial, history: History) -> bool:
        return super().goes_on(replace(trial, overrides=self._inner_overrides(trial)), history)

    def _inner_overrides(self, trial: Trial) -> dict[str, Any]:
        """The arguments that the wrapped proposer changed."""
        ours = self.overrides
        return {k: v for k, v in trial.overrides.items() if k not in ours or ours[k] != v}

    def propose(self, rng: np.random.Generator) -> Proposal:
        proposal = self.inner.ask(self.view, rng)
        overrides = {**self.overrides, **proposal.overrides}
        return replace(proposal, note={"inner": proposal.note}, overrides=overrides)
