"""Distributions of what many decisions come to."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..language import Architecture, Categorical, Tally


class TallyResults:
    """Every result of a tally, with an example and its probability when the decisions are independent.

    Args:
        tally: Tally of the decisions.

    Attributes:
        examples: Values of the decisions, by result.
    """

    def __init__(self, tally: Tally) -> None:
        self.decisions = tally.decisions()
        self._moves: list[np.ndarray[Any, Any]] = []
        states: dict[Hashable, Architecture] = {tally.start: {}}
        for position, decision in enumerate(self.decisions):
            grown: dict[Hashable, Architecture] = {}
            moves: list[tuple[int, int, Hashable]] = []
            for (s, (state, example)), (k, value) in itertools.product(
                enumerate(states.items()), enumerate(decision.values())
            ):
                after = tally.step(state, position, value)
                if after is not None:
                    grown.setdefault(after, {**example, decision.label: value})
                    moves.append((s, k, after))
            self._add_moves(len(states), decision.cardinality, list(grown), moves)
            states = grown
        self.examples: dict[Hashable, Architecture] = {}
        for state, example in states.items():
            self.examples.setdefault(tally.result(state), example)
        results = list(self.examples)
        last = [(s, 0, tally.result(state)) for s, state in enumerate(states)]
        self._add_moves(len(states), 1, results, last)

    def _add_moves(
        self, states: int, values: int, after: list[Hashable], moves: list[tuple[int, int, Hashable]]
    ) -> None:
        place = {state: n for n, state in enumerate(after)}
        table = np.zeros((states, values, len(after)))
        for s, k, state in moves:
            table[s, k, place[state]] = 1
        self._moves.append(table)

    def distribution(self, tables: Mapping[str, Tensor], like: Tensor) -> Tensor:
        """Probability of each result, given that the decisions are allowed.

        Args:
            tables: Probabilities of the values of each decision, (values,), by label.
            like: Tensor whose device and dtype the result has.

        Returns:
            Probabilities, (results,).
        """
        make = partial(torch.tensor, dtype=like.dtype, device=like.device)
        state = make([1.0])
        rows = [*(tables[decision.label] for decision in self.decisions), make([1.0])]
        for moves, row in zip(self._moves, rows, strict=True):
            # No matrix product: autocast would round it.
            state = (state[:, None, None] * row[None, :, None] * make(moves)).sum((0, 1))
        return state / state.sum()


def results_of(tally: Tally) -> TallyResults:
    """Results of a tally; equal tallies are read once."""
    return _read(_Named(tally))


@dataclass(frozen=True, eq=False)
class _Named:
    """A tally, equal to those with the same text and decisions."""

    tally: Tally

    @cached_property
    def key(self) -> tuple[str, tuple[Categorical, ...]]:
        return str(self.tally), self.tally.decisions()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Named) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@lru_cache(maxsize=64)
def _read(named: _Named) -> TallyResults:
    return TallyResults(named.tally)
