"""Latency tables: how long each operation takes, and what that makes of a model."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from torch import nn

from ..errors import SpaceError, closest, quoted, short
from ..files.storage import target_path, write_atomic
from ..files.yaml_files import dump_yaml, load_yaml
from ..graph.reading import region_graph
from ..graph.regions import Cost, Edge, Place
from ..language import Architecture, Decision, Primitive, Space, Tally, tallied, tallies_of
from ..language.values import decisions_of, evaluate
from .prices import Price, Prices, fixed, named, refuse_hidden_choices, untallied, variants
from .traced import Traces

FIXED = "fixed"
_NEEDS_INPUTS = (
    " It was measured with example inputs; pass them with the table, for its keys name their calls."
)


@dataclass(frozen=True)
class LatencyTable:
    """How long each operation of a space takes.

    A key names a choice as `space.trace(x)` does (its label or path, with the path or number of the call
    where there are several), and what is chosen:

    - `choice/candidate` for a candidate of a `LayerChoice` or an input of an `InputChoice`;
    - `depth/block_0` for a block of a `Repeat`;
    - `cell/0->2/operation` for an operation of a cell on one of its edges;
    - `layer/kernel_size=3,out_channels=16` for a layer with chosen arguments, each of them in its order; for
      a primitive of one's own `path/label=value`, each of its decisions;
    - `fixed` for what lies outside every choice.

    A table written by hand may be coarser: `cell/operation` for an operation on every edge, `cell` for every
    call of the cell, `layer` whatever its arguments. The finest key that exists counts. A candidate's time is
    without that of choices inside it, which have keys of their own. Identities, inputs, candidates that are
    themselves a choice, and `fixed` may be left out; they take no time then.

    Args:
        milliseconds: Times by key.
        device: Device it was measured on.
        inputs: shapes of the example inputs, such as "1x3x32x32".
        repeats: runs of which a time is the median.
        threads: Threads of the CPU.
    """

    milliseconds: Mapping[str, float]
    device: str = ""
    inputs: tuple[str, ...] = ()
    repeats: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        for key, value in self.milliseconds.items():
            if not isinstance(key, str):
                raise SpaceError(
                    f"a latency table has the key {short(key)}; keys are text, see LatencyTable."
                )
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 <= value < math.inf:
                raise SpaceError(
                    f"the latency of {key!r} is {short(value)}; expected milliseconds, 0 or more."
                )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table as YAML.

        Raises:
            SpaceError: `path` does not end in .yaml or .yml, or cannot be written.
        """
        data = {"latency": {**vars(self), "milliseconds": dict(self.milliseconds)}}
        write_atomic(target_path(path, (".yaml", ".yml")), dump_yaml(data).encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a table that `save` wrote.

        Raises:
            SpaceError: the file is missing or is no latency table.
        """
        data = load_yaml(path)
        given = data.get("latency") if isinstance(data, dict) else None
        if not isinstance(given, dict) or not isinstance(given.get("milliseconds"), dict):
            raise SpaceError(f"'{os.fspath(path)}' is no latency table: it lacks latency/milliseconds.")
        known = {name: given[name] for name in cls.__dataclass_fields__ if name in given}
        return cls(**known | {"inputs": tuple(map(str, given.get("inputs", ())))})


# -- what a table has times for --------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Operation:
    """The modules on an edge at one place.

    Args:
        edge: Edge with the modules, or an input of a choice.
        place: Place of the choice.
        cost: Cost of the edge there.
        is_free: whether a table may leave it out, because it computes nothing.
        decisions: Decisions that its time depends on, beside whether it is there.
        tallies: Results through which alone some of them change it.
    """

    edge: Edge
    place: Place
    cost: Cost
    is_free: bool
    decisions: tuple[Decision, ...] = ()
    tallies: tuple[Tally, ...] = ()

    def keys(self, values: Mapping[str, Any]) -> list[str]:
        """Keys that name it when `decisions` have these values, the finest first."""
        region = self.edge.scope
        assert region is not None
        if self.edge.kind == "layer":
            plain = untallied(self.decisions, self.tallies)
            chosen = {decision.label: values[decision.label] for decision in plain}
            chosen |= {str(tally): tallied(tally, values) for tally in self.tallies}
            if self.cost.spec is not None:
                spec = self.cost.spec
                sized = {decision.label for decision in spec.sized}
                arguments = {
                    k: v for k, v in spec.arguments.items() if sized & {d.label for d in decisions_of(v)}
                }
                chosen = evaluate(arguments, {**spec.ranges, **values})
            tails = [",".join(f"{name}={value}" for name, value in chosen.items()), ""]
        elif region.topology is not None:
            source, node = region.topology.edges[self.edge.attributes["row"]]
            tails = [f"{source}->{node}/{self.edge.key}", self.edge.key]
        else:
            tails = [self.edge.key]
        names = dict.fromkeys((region.name, region.base))
        return [f"{name}/{tail}" if tail else name for name in names for tail in tails]

    def variants(self) -> Iterator[Architecture]:
        """Values of `decisions`: each that makes a difference."""
        return variants(self.decisions, self.tallies, named(self.edge))


def operations(space: Space, inputs: tuple[Any, ...]) -> list[Operation]:
    """Every operation of a space, and every input of a choice; with example inputs, at every call.

    Raises:
        SpaceError: a primitive of the user's own has choices inside it that cannot be told apart.
    """
    if not inputs:
        refuse_hidden_choices(space)
    seen = Traces(space, inputs).entries().values() if inputs else region_graph(space).costs()
    return [
        Operation(edge, place, cost, _is_free(space, edge, cost), *_dependence(space, edge, place, cost))
        for edge, place, cost in seen
        if edge is not None and place is not None and edge.kind in ("block", "layer", "candidate")
        if edge.scope is not None and not (edge.kind == "candidate" and edge.scope.type == "Repeat")
    ]


def _is_free(space: Space, edge: Edge, cost: Cost) -> bool:
    if edge.scope is not None and edge.scope.type == "InputChoice":
        return True
    modules = [space.get_submodule(path) for path in cost.paths] if edge.kind != "layer" else []
    return bool(modules) and all(isinstance(module, nn.Identity | Primitive) for module in modules)


def _dependence(
    space: Space, edge: Edge, place: Place, cost: Cost
) -> tuple[tuple[Decision, ...], tuple[Tally, ...]]:
    """Decisions and tallies that the time of an operation depends on."""
    if edge.kind != "layer":
        return (), ()
    if cost.spec is not None:
        return cost.spec.sized, tallies_of(cost.spec.arguments)
    primitive: Any = space.get_submodule(place.path)
    return primitive.reads(), tuple(primitive.tallies())


# -- from a table to prices ------------------------------------------------------------------------------


def latency_prices(
    space: Space, table: LatencyTable | Mapping[str, float], inputs: tuple[Any, ...] = ()
) -> Prices:
    """Milliseconds of every edge.

    Args:
        space: left untouched.
        table: see `LatencyTable`.
        inputs: Inputs of the forward; with them keys may name calls, without them they name modules.

    Raises:
        SpaceError: the table lacks an operation, or names one that does not exist.
    """
    table = table if isinstance(table, LatencyTable) else LatencyTable(table)
    milliseconds = table.milliseconds
    found = operations(space, inputs)
    known = {FIXED} | {key for o in found for values in o.variants() for key in o.keys(values)}
    unknown = [key for key in milliseconds if key not in known]
    if unknown:
        raise SpaceError(
            f"the latency table names {quoted(unknown)}, which {type(space).__name__} does not have."
            + (_NEEDS_INPUTS if not inputs and table.inputs else closest(unknown[0], known))
        )
    items = [Price(None, None, fixed(milliseconds.get(FIXED, 0)))]
    items += [_price(operation, milliseconds) for operation in found]
    return Prices("latency", space.decision_space, tuple(items)).merged()


def _price(operation: Operation, milliseconds: Mapping[str, float]) -> Price:
    def measure(arch: Mapping[str, Any]) -> float:
        keys = operation.keys(arch)
        found = next((key for key in keys if key in milliseconds), None)
        if found is None and not operation.is_free:
            raise SpaceError(
                f"the latency table lacks {keys[0]!r}" + (f" (or {quoted(keys[1:])})." if keys[1:] else ".")
            )
        return 0 if found is None else milliseconds[found]

    at = measure if operation.decisions else fixed(measure({}))
    return Price(operation.edge, operation.place, at, operation.decisions, operation.tallies)
