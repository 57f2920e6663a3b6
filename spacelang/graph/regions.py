"""The graph of a space before it is written to networkx: conditions are still objects, not text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ..language import CellTopology, Decision
from ..language.conditions import ALWAYS, AnyOf, Condition, both, either
from ..nn import LayerSpec

if TYPE_CHECKING:
    from torch import nn


N = TypeVar("N")


@dataclass(frozen=True, eq=False)
class Call:
    """How a trace ran what is on an edge; tensors are without data.

    Attributes:
        args: positional arguments it was given.
        kwargs: Keyword arguments it was given.
        output: Its return value.
        arch: architecture it ran as, with a value for every label.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any
    arch: Mapping[str, Any]


@dataclass(eq=False)
class Cost:
    """The cost of modules outside every choice, or of an edge at one place, without choices in them.

    Attributes:
        paths: Paths of the modules.
        parameters: number of weights; one that is met twice counts once.
        flops: operations, or None while nothing was run.
        spec: the layer, when its arguments are chosen.
        call: how it was run, or None while nothing was.
        counted: identities of the weights counted so far.
    """

    paths: list[str] = field(default_factory=list)
    parameters: int = 0
    flops: int | None = None
    spec: LayerSpec | None = None
    call: Call | None = None
    counted: set[int] = field(default_factory=set)

    def add_parameters(self, module: nn.Module) -> None:
        """Count the weights `module` itself holds, not those of its submodules."""
        for parameter in module.parameters(recurse=False):
            if id(parameter) not in self.counted:
                self.counted.add(id(parameter))
                self.parameters += parameter.numel()


@dataclass(frozen=True, eq=False)
class Place:
    """One place in the module tree where a choice is.

    Args:
        path: Path of its module.
        condition: when the place exists, and so everything around it.
        inside: candidate it is part of, or None.
        within: the place that candidate is at.
    """

    path: str
    condition: Condition
    inside: Edge | None = None
    within: Place | None = None

    def count(self, arch: Mapping[str, Any]) -> int:
        """How often the choice is in the model: twice when two slots apply the operation it is part of."""
        if not self.condition.holds(arch):
            return 0
        count, place = 1, self
        while place.inside is not None and place.within is not None:
            count, place = count * place.inside.slots(arch), place.within
        return count

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """Equal for places that are in a model equally often."""
        if self.inside is None or self.within is None:
            return (str(self.condition),)
        return (str(self.condition), str(self.inside.local), *self.within.key)


@dataclass(eq=False)
class Region:
    """The sub-graph of one choice (of all cells that share a label).

    Args:
        base: the label, or the path where there is none; the name unless another region claims it too.
        type: class of the primitive.
        label: label of its decision, or of its cell; empty where it has several decisions or none.
        nodes: attributes by local name.
        inputs: local names of the nodes through which feature maps enter.
        edges: edge of each branch of the primitive, by the branch's name.
        places: Places of its modules.
        name: Beginning of node names.
        is_cell: whether it is the graph of a cell, which a picture shows as one.
        topology: Topology of a `Cell`.
        loose_end: Whether only the nodes nobody reads are the output of a cell.
        exchangeable: Whether nodes of a cell may be exchanged, unless their places in its output differ.
        signatures: Keys of the modules at (row, column) of such a cell, to tell edges apart.
        held: expressions a plain module keeps as attributes, by name.
    """

    base: str
    type: str
    label: str
    nodes: dict[str, dict[str, Any]]
    inputs: tuple[str, ...] = ()
    edges: dict[str, Edge] = field(default_factory=dict)
    places: list[Place] = field(default_factory=list)
    name: str = ""
    is_cell: bool = False
    topology: CellTopology | None = None
    loose_end: bool = False
    exchangeable: bool = False
    signatures: dict[tuple[int, int], list[str]] = field(default_factory=dict)
    held: dict[str, Any] = field(default_factory=dict)

    def merge(self, other: Region) -> None:
        """Take over what the same region is at another place."""
        path = other.places[0].path
        self.places += other.places
        self.held |= {f"{name} of {path}": value for name, value in other.held.items()}
        for edge, same in dict(zip(self.edges.values(), other.edges.values(), strict=True)).items():
            edge.costs += same.costs
        self.__dict__.pop("condition", None)

    @cached_property
    def condition(self) -> Condition:
        """When the region is used at all."""
        return (
            either(list(dict.fromkeys(place.condition for place in self.places))) if self.places else ALWAYS
        )


class End(NamedTuple):
    """One node: a region and a local name in it."""

    region: Region
    local: str

    def __str__(self) -> str:
        return f"{self.region.name}/{self.local}" if self.region.name else self.local


@dataclass(eq=False)
class Edge:
    """One edge.

    Args:
        source: node it leaves.
        target: node it enters.
        key: key among parallel edges.
        kind: "candidate", "block", "layer", "concat", "mean", "sum", "contains" or "data".
        local: when it is used, given that `scope` is.
        scope: region it belongs to; None where `local` says everything.
        attributes: plain values for networkx.
        decisions: decisions whose values say what it computes.
        costs: Costs of the modules on it, at each place of its scope.
        runs: when its modules, given that a model has them, are run.
    """

    source: End
    target: End
    key: str
    kind: str
    local: Condition = ALWAYS
    scope: Region | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    decisions: tuple[Decision, ...] = ()
    costs: list[Cost] = field(default_factory=lambda: [Cost()])
    runs: Condition = ALWAYS

    @property
    def condition(self) -> Condition:
        """When the edge is used."""
        return self.local if self.scope is None else both(self.scope.condition, self.local)

    def count(self, arch: Mapping[str, Any]) -> int:
        """How often an architecture uses it at one place."""
        return 0 if self.scope is not None and not self.scope.condition.holds(arch) else self.slots(arch)

    def slots(self, arch: Mapping[str, Any]) -> int:
        """How often its scope chooses it: two slots of a cell may apply one operation to one node."""
        parts = (
            self.local.parts if isinstance(self.local, AnyOf) and self.kind == "candidate" else (self.local,)
        )
        return sum(part.holds(arch) for part in parts)


@dataclass(eq=False)
class RegionGraph:
    """Regions and edges of a space, and the cost of what lies outside every choice."""

    title: str
    regions: list[Region] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    fixed: Cost = field(default_factory=Cost)
    _between: dict[tuple[End, End, str], Edge] = field(default_factory=dict)

    def add(self, region: Region) -> Region:
        """Take up a region with the edges inside it."""
        self.regions.append(region)
        self.edges += dict.fromkeys(region.edges.values())
        return region

    def connect(self, source: End, target: End, kind: str, condition: Condition, inside: Edge | None) -> None:
        """Add an edge between regions; one that is there already holds under either condition.

        Args:
            source: node it leaves.
            target: node it enters.
            kind: "contains" or "data".
            condition: when it is used.
            inside: candidate whose modules it passes through.
        """
        key = kind if inside is None else f"{kind}:{inside.key}"
        known = self._between.get((source, target, key))
        if known is not None:
            known.local = either(list(dict.fromkeys([known.local, condition])))
            return
        given = {} if inside is None else inside.attributes
        passed_on: dict[str, Any] = {
            name: given[name] for name in ("candidate", "groups", "row", "columns") if name in given
        }
        edge = Edge(source, target, key, kind, condition, attributes=passed_on)
        self._between[source, target, key] = edge
        self.edges.append(edge)

    def costs(self) -> Iterable[tuple[Edge, Place, Cost]]:
        """Cost of every edge that holds modules, at each place."""
        for edge in self.edges:
            if edge.scope is not None:
                yield from (
                    (edge, place, cost) for place, cost in zip(edge.scope.places, edge.costs, strict=True)
                )

    def ends(self) -> Iterable[End]:
        """Every node, region by region."""
        return (End(region, local) for region in self.regions for local in region.nodes)


def unique_name(base: str, path: str, claims: Mapping[str, int]) -> str:
    """`base`, with the path behind it where several regions claim the same."""
    return base if claims[base] <= 1 else f"{base}@{path}"


def name_regions(regions: Iterable[Region]) -> None:
    """Give every region its name."""
    listed = list(regions)
    claims = Counter(region.base for region in listed)
    for region in listed:
        region.name = unique_name(region.base, region.places[0].path, claims)


def live_nodes(nodes: Iterable[N], before: Iterable[tuple[N, N]], after: Iterable[tuple[N, N]]) -> set[N]:
    """Nodes that still matter when of the edges `before` only those `after` are left.

    A node goes when it had edges in, or edges out, and has lost all of them: a feature map nobody
    computes or nobody reads. What depends on it alone goes with it.
    """
    alive, edges, pairs = set(nodes), list(after), list(before)
    had_out, had_in = {source for source, _ in pairs}, {target for _, target in pairs}
    while True:
        edges = [(source, target) for source, target in edges if source in alive and target in alive]
        has_out, has_in = {source for source, _ in edges}, {target for _, target in edges}
        dead = alive & ((had_out - has_out) | (had_in - has_in))
        if not dead:
            return alive
        alive -= dead
