"""Cells, whose inputs are not in any table: they are taken as uniform."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

from ..graph._plan import Plan
from ..language import Architecture, CellTopology, Decision


class Cells:
    """Cells of a space.

    Args:
        plan: of the space.

    Attributes:
        by_label: their topologies.
    """

    def __init__(self, plan: Plan) -> None:
        self.by_label = {r.label: r.topology for r in plan.regions if r.topology is not None}
        self._cell_of = {d.label: cell for cell in self.by_label.values() for d in cell.decisions()}

    def __contains__(self, decision: Decision) -> bool:
        return decision.label in self._cell_of

    def apart(self, decisions: Sequence[Decision]) -> tuple[list[Decision], list[tuple[float, Architecture]]]:
        """Take decisions of cells away from others; all that other layers know of them is their loose ends.

        Returns:
            the others, and `(probability, inputs)`: an example for each number of loose ends.
        """
        labels = dict.fromkeys(self._cell_of[d.label].label for d in decisions if d in self)
        cases = []
        for product in itertools.product(*(loose_end_cases(self.by_label[label]) for label in labels)):
            inputs = {label: node for _, example in product for label, node in example.items()}
            cases.append((math.prod(probability for probability, _ in product), inputs))
        return [d for d in decisions if d not in self], cases


def loose_end_cases(topology: CellTopology) -> list[tuple[float, Architecture]]:
    """How likely each number of loose ends is when inputs are uniform, with an example of inputs.

    Returns:
        `(probability, {label of an input: node})` for each number.
    """
    states: dict[frozenset[int], tuple[float, Architecture]] = {frozenset(): (1.0, {})}
    for node in topology.nodes:
        grown: dict[frozenset[int], tuple[float, Architecture]] = {}
        chosen = list(_inputs(topology, node))
        labels = [source.label for _, source in topology.slots(node)]
        for unread, (probability, inputs) in states.items():
            for sources in chosen:
                left = unread - set(sources) | {node}
                before, example = grown.get(left, (0.0, inputs | dict(zip(labels, sources, strict=True))))
                grown[left] = before + probability / len(chosen), example
        states = grown
    cases: dict[int, tuple[float, Architecture]] = {}
    for unread, (probability, inputs) in states.items():
        before, example = cases.get(len(unread), (0.0, inputs))
        cases[len(unread)] = before + probability, example
    return list(cases.values())


def _inputs(topology: CellTopology, node: int) -> Iterator[tuple[int, ...]]:
    """What the slots of a node may read."""
    if topology.distinct_inputs:
        return itertools.permutations(range(node), topology.num_ops_per_node)
    return itertools.product(range(node), repeat=topology.num_ops_per_node)
