"""Proxies: cheaper trials, whose ranking stands in for that of full ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from spacelang import ModelSpace, SpaceError
from spacelang.errors import require_integer
from spacelang.trials import History, Proposal, Proposer, Trial, plain_overrides

from .wrapper import Wrapped, Wrapper, inner_goes_on


@dataclass(frozen=True)
class FewerEpochs(Wrapped):
    """Stop every trial after some epochs; the evaluator must report its metrics after each.

    Epochs that the strategy itself sets, as `Hyperband` does, hold where they are fewer.

    Args:
        strategy: The wrapped strategy.
        epochs: Largest number of epochs of a trial.
    """

    epochs: int

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("epochs", self.epochs, least=1)

    def start(self, space: ModelSpace) -> Proposer:
        """Begin a search."""
        return _Shortened(self.strategy.start(space), self.epochs)


@dataclass(frozen=True)
class SmallerSpace(Wrapped):
    """Search the space rebuilt with other constructor arguments, such as fewer cells or channels.

    The architectures found belong to the space itself. Costs and limits of a search hold for the full model.
    Trained weights belong to the smaller one, so an exported instance gets new ones.

    Args:
        strategy: Strategy that searches the smaller space.
        overrides: Constructor arguments, plain values: `SmallerSpace(Random(), {"width": 4})`.
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
            SpaceError: the space has no such arguments, or its architectures change with them.
        """
        smaller = space.rebuild(**self.overrides)
        problems = space.decision_space.problems(smaller.default())
        if problems:
            raise SpaceError(
                f"{type(space).__name__} rebuilt with {dict(self.overrides)!r} has architectures that do not "
                f"belong to the space itself, so they could not be exported: {problems[0]}"
            )
        return _Smaller(partial(self.strategy.start, smaller), self.overrides)


class _Shortened:
    """A proposer that limits the epochs of every proposal; the wrapped one sees the history as it is."""

    def __init__(self, inner: Proposer, epochs: int) -> None:
        self.inner = inner
        self.epochs = epochs

    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        proposal = self.inner.ask(history, rng)
        epochs = self.epochs if proposal.max_epochs is None else min(self.epochs, proposal.max_epochs)
        return replace(proposal, max_epochs=epochs)

    def goes_on(self, trial: Trial, history: History) -> bool:
        return inner_goes_on(self.inner, trial, history)


class _Smaller(Wrapper):
    """A wrapper that shows trials as if there were only the smaller space."""

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
        """Return the arguments that the wrapped proposer changed."""
        ours = self.overrides
        return {k: v for k, v in trial.overrides.items() if k not in ours or ours[k] != v}

    def propose(self, rng: np.random.Generator) -> Proposal:
        proposal = self.inner.ask(self.view, rng)
        overrides = {**self.overrides, **proposal.overrides}
        return self.noted(replace(proposal, overrides=overrides))
