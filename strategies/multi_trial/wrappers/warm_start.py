"""A search that begins with known results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from spacelang import ModelSpace, SpaceError
from spacelang.language import Architecture
from spacelang.trials import History, Proposal, Proposer, Trial

from .wrapper import Wrapped, Wrapper


@dataclass(frozen=True)
class WarmStart(Wrapped):
    """Show a strategy earlier trials before its own; none of them is trained again for that.

    They do not belong to the search's history and its results. `Deduplicate(...)` inside keeps them from
    being proposed: `WarmStart(Deduplicate(strategy), known)`.

    Args:
        strategy: The wrapped strategy.
        known: Pairs of an architecture and its metrics; or a history, whose measured trials are used, except
            those with other constructor arguments of the space.
    """

    known: History | Iterable[tuple[Architecture, Mapping[str, float]]]

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.known, History):
            pairs = [(dict(t.arch), dict(t.metrics)) for t in self.known.done if not t.overrides]
        else:
            pairs = [_pair(entry) for entry in self.known]
        object.__setattr__(self, "known", tuple(pairs))

    def start(self, space: ModelSpace) -> Proposer:
        """Begin a search.

        Raises:
            SpaceError: a known architecture does not belong to this space.
        """
        assert isinstance(self.known, tuple)
        pairs = [(space.decision_space.canonical(arch), metrics) for arch, metrics in self.known]
        return _WarmStarting(self.starter(space), pairs)


def _pair(entry: Any) -> tuple[Architecture, dict[str, float]]:
    if not (
        isinstance(entry, tuple | list) and len(entry) == 2 and all(isinstance(x, Mapping) for x in entry)
    ):
        raise SpaceError(
            f"known holds {entry!r}; expected pairs of an architecture and its metrics, two dicts."
        )
    return dict(entry[0]), {str(name): float(value) for name, value in entry[1].items()}


class _WarmStarting(Wrapper):
    def __init__(
        self, start: Callable[[], Proposer], known: list[tuple[Architecture, Mapping[str, float]]]
    ) -> None:
        super().__init__(start)
        self.known = known

    def begin(self) -> None:
        for number, (arch, metrics) in enumerate(self.known):
            self.view.add(Trial(number, arch, 0, "done", metrics=metrics))

    def take(self, trial: Trial) -> None:
        self.places[trial.number] = len(self.known) + trial.number
        self.show(trial, self.places[trial.number])

    def propose(self, rng: np.random.Generator) -> Proposal:
        return self.noted(self.inner.ask(self.view, rng))
