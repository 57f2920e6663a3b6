"""PNAS: cells that grow node by node, with a predictor that chooses which."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

import numpy as np

from spacelang import ModelSpace, SpaceError
from spacelang.arguments import KnownArguments
from spacelang.errors import require_integer
from spacelang.language import Architecture, CellTopology, DecisionSpace
from spacelang.trials import Exhausted, History, Proposal

from .predictors import CellLSTM, Predictor, cells_by_label
from .rounds import known

Block: TypeAlias = "tuple[tuple[int, int], ...]"
"""A node: (source, position of the operation) of each slot, in order."""

Blocks: TypeAlias = tuple[Block, ...]
"""A cell, node by node."""

_CHUNK = 4096  # cells predicted at a time: as architectures all of them would fill the memory


def lstm_ensemble(space: ModelSpace) -> CellLSTM:
    """Return the predictor of PNAS: LSTMs that read one of the cells, for all are alike."""
    return CellLSTM(space, [next(iter(cells_by_label(space)))])


@dataclass(frozen=True, kw_only=True)
class PNAS(KnownArguments):
    """Try all cells of one node, then the cells of two nodes that a predictor rates best, and so on.

    Level b tries cells of b nodes, in the space rebuilt with b as the number of nodes. Cells of level b - 1
    are extended by every possible next node, the predictor learns from all measured trials, and the best
    `beam` extensions are tried. The last level has the space's number of nodes, and its trials alone are
    results; after them the search ends.

    The space must decide nothing but cells. Cells of several labels get the same blocks: the paper's one cell
    stands at both strides. A trial that failed, gave NaN or broke a constraint is not extended; limits on
    costs also hold for small cells. With parallel workers the next level begins while the last trials of a
    level run: they are extended, but not learnt from. With several objectives the first decides.

    Args:
        nodes: Name of the constructor argument for the number of nodes of each cell.
        beam: Cells tried at each level from the second on.
        predictor: Function that makes a `Predictor` for the space; it must read architectures of fewer nodes,
            which lack the labels of the others, as `Regressor(Ridge(), partial_one_hot(space))` does.

    Source: Liu et al. 2018, arXiv:1712.00559, algorithm 1.
    """

    nodes: str = "num_nodes"
    beam: int = 256
    predictor: Callable[[ModelSpace], Predictor] = lstm_ensemble
    has_end: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_integer("beam", self.beam, least=1)
        if not isinstance(self.nodes, str):
            raise SpaceError(f"nodes={self.nodes!r} must be the name of a constructor argument.")

    def start(self, space: ModelSpace) -> _Search:
        """Begin a search.

        Raises:
            SpaceError: the space decides more than cells that are alike, or has no argument `nodes`.
        """
        return _Search(_Cells(_topologies(space, self.nodes)), self, self.predictor(space))


def _topologies(space: ModelSpace, nodes: str) -> list[CellTopology]:
    """Return the topology of the cells of each label, checked."""
    name = type(space).__name__
    found = _topology_by_label(space)
    if len({replace(topology, label="") for topology in found.values()}) != 1:
        raise SpaceError(
            f"PNAS widens cells that are alike; those of {name} are {list(found.values()) or 'none'}. "
            "RegularizedEvolution and Bananas search any space."
        )
    inside = {decision.label for topology in found.values() for decision in topology.decisions()}
    outside = [decision.label for decision in space.decisions if decision.label not in inside]
    if outside:
        raise SpaceError(f"PNAS searches cells alone; {name} also decides {', '.join(map(repr, outside))}.")
    try:
        smallest = space.rebuild(**{nodes: 1})
    except SpaceError as error:
        raise SpaceError(
            f"PNAS sets the number of nodes of {name}'s cells by {nodes}=1: {error} "
            "Name the argument with PNAS(nodes=...)."
        ) from error
    expected = {label: replace(topology, num_nodes=1) for label, topology in found.items()}
    if _topology_by_label(smallest) != expected:
        raise SpaceError(f"{name}({nodes}=1) should have the same cells with one node each, and has not.")
    return list(found.values())


def _topology_by_label(space: ModelSpace) -> dict[str, CellTopology]:
    return {label: cell.topology for label, cell in cells_by_label(space).items()}


class _Cells:
    """Cells that are alike, as blocks and as architectures.

    Args:
        topologies: One for each label; they differ in nothing else.
    """

    def __init__(self, topologies: Sequence[CellTopology]) -> None:
        self.first = topologies[0]
        self._labels = [  # by cell, node and slot: labels of the operation and of the source
            [[(op.label, source.label) for op, source in t.slots(node)] for node in t.nodes]
            for t in topologies
        ]

    @property
    def levels(self) -> int:
        """Number of nodes of a whole cell."""
        return self.first.num_nodes

    def architecture(self, blocks: Blocks, start: int = 0) -> Architecture:
        """Return the architecture whose cells have these blocks from node `start` on."""
        arch: Architecture = {}
        for labels in self._labels:
            for node, block in enumerate(blocks, start):
                for (op, source), (place, rank) in zip(labels[node], block, strict=True):
                    arch[op] = self.first.operations[rank]
                    arch[source] = place
        return arch

    def blocks(self, arch: Mapping[str, Any]) -> Blocks:
        """Return the blocks of an architecture with any number of nodes."""
        rank = self.first.operations.index
        return tuple(
            tuple((arch[source], rank(arch[op])) for op, source in slots)
            for slots in self._labels[0]
            if slots[0][0] in arch
        )

    def extended(self, beam: Sequence[Blocks], level: int, space: DecisionSpace) -> Iterator[Blocks]:
        """Yield every cell of `level` nodes that begins as one of the beam; the order of slots is ignored.

        Args:
            beam: Cells of one node less.
            level: Number of nodes, at least 1.
            space: Decisions of cells of `level` nodes, with constraints.
        """
        node = self.first.nodes[level - 1]
        own = {label for labels in self._labels for slot in labels[level - 1] for label in slot}
        constraints = [c for c in space.constraints if not c.labels.isdisjoint(own)]
        local = [c for c in constraints if c.labels <= own]
        other = [c for c in constraints if not c.labels <= own]
        slots = itertools.product(range(node), range(len(self.first.operations)))
        blocks = [
            block
            for block in itertools.combinations_with_replacement(slots, self.first.num_ops_per_node)
            if all(c.holds(self.architecture((block,), level - 1)) for c in local)
        ]
        for cell, block in itertools.product(beam, blocks):
            wider = (*cell, block)
            if not other or all(c.holds(self.architecture(wider)) for c in other):
                yield wider


class _Search:
    """A search whose notes say the level of a trial, when it began, and which trials were running then.

    So a resumed search chooses the same cells.
    """

    def __init__(self, cells: _Cells, strategy: PNAS, predictor: Predictor) -> None:
        self.cells = cells
        self.strategy = strategy
        self._predictor = predictor
        self._current: tuple[Mapping[str, Any], list[Blocks]] = {}, []

    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        """See `Proposer`."""
        number = len(history)
        note = history[number - 1].note if number else {}
        if "level" in note:
            left = self._chosen(history, note)[number - note["begin"] :]
            if left:
                return self._proposal(left[0], note)
        level = note.get("level", 0) + 1
        if level > self.cells.levels:
            raise Exhausted(f"the best cells of {self.cells.levels} nodes were tried")
        running = [trial.number for trial in history.running]
        note = {"level": level, "begin": number, "running": running, "seed": int(rng.integers(2**31))}
        chosen = self._chosen(history, note)
        if not chosen:
            raise Exhausted(f"no cell of {level - 1} nodes was measured that could be extended")
        return self._proposal(chosen[0], note)

    def _proposal(self, blocks: Blocks, note: Mapping[str, Any]) -> Proposal:
        return Proposal(self.cells.architecture(blocks), None, note, self._overrides(note["level"]))

    def _overrides(self, level: int) -> dict[str, int]:
        return {self.strategy.nodes: level} if level < self.cells.levels else {}

    def _chosen(self, history: History, note: Mapping[str, Any]) -> list[Blocks]:
        """Return the cells of a level, in the order in which they are proposed."""
        if self._current[0] != note:
            level: int = note["level"]
            space = history.decisions(self._overrides(level))
            if level == 1:
                chosen = list(self.cells.extended([()], 1, space))
            else:
                chosen = self._best(history, note, space)
            self._current = dict(note), chosen
        return self._current[1]

    def _best(self, history: History, note: Mapping[str, Any], space: DecisionSpace) -> list[Blocks]:
        """Return the extensions that the predictor rates best."""
        then = known(history, note["begin"], note["running"])
        beam = self._beam(history, note, {trial.number for trial in then.done})
        if not beam or not then.done:
            return []
        values = np.array([then.score(trial) for trial in then.done])
        archs = [trial.arch for trial in then.done]
        self._predictor.fit(archs, values, np.random.default_rng(note["seed"]))
        candidates = list(self.cells.extended(beam, note["level"], space))
        means = [
            self._predictor.predict([self.cells.architecture(c) for c in candidates[i : i + _CHUNK]])[0]
            for i in range(0, len(candidates), _CHUNK)
        ]
        order = np.argsort(-np.concatenate(means), kind="stable") if means else ()
        return [candidates[i] for i in order[: self.strategy.beam]]

    def _beam(self, history: History, note: Mapping[str, Any], measured: set[int]) -> list[Blocks]:
        """Return the cells of the level before that were measured when this one began, or were running."""
        trials = (history[number] for number in range(note["begin"]))
        kept = measured | set(note["running"])
        level = note["level"] - 1
        beam = [t.arch for t in trials if t.note.get("level") == level and t.number in kept]
        return list(dict.fromkeys(map(self.cells.blocks, beam)))
