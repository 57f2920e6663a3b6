"""Reading the graph of a space off its module tree."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from weakref import WeakKeyDictionary

from torch import nn

from ..language import Cell, Primitive, Space
from ..language.conditions import ALWAYS, Condition, both
from .choice_regions import held_region, layout
from .regions import Cost, Edge, End, Place, Region, RegionGraph, name_regions
from .wiring import Wire, Wired, Wiring, put_on_wire, wired_region

# A space never changes after its construction, and no graph refers to its space.
_known: WeakKeyDictionary[Space, RegionGraph] = WeakKeyDictionary()


def region_graph(space: Space) -> RegionGraph:
    """The space's graph with conditions as objects; read once per space."""
    if space not in _known:
        _known[space] = read(space)
    return _known[space]


def read(space: Space) -> RegionGraph:
    """Read the graph of a space."""
    reader = _Reader(RegionGraph(type(space).__name__))
    reader.read(space, ALWAYS, "", _Context(reader.graph.fixed), "")
    name_regions(reader.graph.regions)
    return reader.graph


@dataclass(frozen=True)
class _Context:
    """The owner of a module: the candidate it is part of, or the network itself.

    Args:
        cost: Cost that its parameters are added to.
        key: identity of the candidate; the same for all cells that share a label.
        edge: the candidate's edge, or None.
        place: Place of that edge, or None.
    """

    cost: Cost
    key: Hashable = ""
    edge: Edge | None = None
    place: Place | None = None


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name


class _Reader:
    """Walks a module tree and collects regions.

    A choice is known by the candidate it is in and its path inside that candidate; a cell by its label. So
    whatever cells with one label contain is one region, too.
    """

    def __init__(self, graph: RegionGraph) -> None:
        self.graph = graph
        self._regions: dict[Hashable, Region] = {}
        self._wires: dict[str, tuple[Region, Wiring, Wire]] = {}  # by the path of the choice on it

    def read(
        self, module: nn.Module, condition: Condition, path: str, context: _Context, relative: str
    ) -> None:
        """Collect `module`, which lies at `path`, and at `relative` inside its context."""
        context.cost.add_parameters(module)
        if isinstance(module, Wired) and any(isinstance(m, Primitive) for m in module.modules()):
            context, relative = self._wire(module, condition, path, context), ""
        if isinstance(module, Primitive):
            self._read_choice(module, condition, path, context, relative)
            return
        held = held_region(module, path)
        if held is not None:
            self._place(held, ("held", context.key, relative), condition, path, context)
        for name, child in module.named_children():
            self.read(child, condition, _join(path, name), context, _join(relative, name))

    def _wire(self, module: nn.Module, condition: Condition, path: str, context: _Context) -> _Context:
        """Collect the wiring of a cell of one's own; what is in it is known by the cell."""
        assert isinstance(module, Wired)
        wiring = module.wiring()
        wires = tuple((wire.source, wire.target, wire.choice, str(wire.when)) for wire in wiring.wires)
        key = ("wired", wiring.label, wiring.num_inputs, wiring.num_nodes, wires)
        cell = self._place(wired_region(module, wiring), key, condition, path, context)
        self._wires |= {
            _join(path, wire.choice): (cell, wiring, wire) for wire in wiring.wires if wire.choice
        }
        return replace(context, key=key)

    def _read_choice(
        self, choice: Primitive, condition: Condition, path: str, context: _Context, relative: str
    ) -> None:
        fresh = layout(choice, path, on_wire=path in self._wires)
        if path in self._wires:
            put_on_wire(fresh, *self._wires[path])
        # Expressions may differ from cell to cell; then their regions do, too.
        key: Hashable = (context.key, relative, *(str(edge.local) for edge in fresh.edges.values()))
        if isinstance(choice, Cell):
            key = ("cell", choice.topology, choice.frame.merge_op)
        region = self._place(fresh, key, condition, path, context)
        place = region.places[-1]
        for inner, branch, child in choice.branches():
            edge = region.edges.get(branch)
            child_path = _join(path, branch)
            if edge is None:  # the frame of a cell is part of whatever the cell is part of
                self.read(child, condition, child_path, context, _join(relative, branch))
                continue
            cost = edge.costs[-1]
            cost.paths.append(child_path)
            if region.exchangeable and isinstance(choice, Cell):
                at = edge.attributes["row"], edge.attributes["columns"][0]
                of_node = choice.frame.node_modules(choice.topology.edges[at[0]][1])
                region.signatures.setdefault(at, []).extend(map(_signature, (child, *of_node)))
            inside = _Context(cost, (key, branch), edge, place)
            self.read(child, both(condition, inner), child_path, inside, "")

    def _place(
        self, region: Region, key: Hashable, condition: Condition, path: str, context: _Context
    ) -> Region:
        """Take up a region, or find the one it shares, and connect it to the candidate it is in."""
        region.places.append(Place(path, condition, context.edge, context.place))
        if key in self._regions:
            self._regions[key].merge(region)
        else:
            self._regions[key] = self.graph.add(region)
        region = self._regions[key]
        if context.edge is not None:
            for local in region.inputs:
                self.graph.connect(
                    context.edge.source, End(region, local), "contains", condition, context.edge
                )
        return region


def own_modules(module: nn.Module) -> Iterator[nn.Module]:
    """`module` and what is in it, apart from what its choices choose among."""
    yield module
    if isinstance(module, Cell):
        yield from own_modules(module.frame)
    elif not isinstance(module, Primitive):
        for child in module.children():
            yield from own_modules(child)


def _signature(module: nn.Module) -> str:
    """Return a key of a module, to compare those of one candidate on two edges."""
    shapes = [(name, tuple(tensor.shape)) for name, tensor in module.state_dict().items()]
    return blake2b(f"{module!r} {shapes}".encode(), digest_size=8).hexdigest()
