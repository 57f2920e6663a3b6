"""The graph of a space with the data flow between its choices, found by running it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn

from ..errors import SpaceError
from ..language import Cell, Condition, InputChoice, LayerChoice, Primitive, Repeat, Space
from ..language.choices import as_inputs, sum_in_order
from ..language.conditions import ALWAYS, both
from ..language.decisions import Architecture
from ..randomness import global_generators_kept, torch_generators_kept
from .choice_regions import layout, state_name
from .flop_mode import Known
from .reading import own_modules
from .regions import Call, Cost, Edge, End, Place, Region, RegionGraph, unique_name
from .tensors import Flow, map_tensors, shape_attributes, tensors_in, without_data
from .twin import Later, Twin, later_layer


def trace(space: Space, example_inputs: Sequence[Any], arch: Mapping[str, Any]) -> RegionGraph:
    """Run a copy of `space` once, see `Tracer`."""
    return Tracer(space, example_inputs, Known()).trace(arch)


class Tracer:
    """Runs copies of a space and reads its graph, data flow included.

    The network runs as an architecture, in evaluation mode; beside that, every candidate runs once on the
    input it would get. Runs are on the meta device, without arithmetic: one copy serves them all, and of
    candidates that are alike on inputs that are alike one is run. A network that looks at values runs as it
    is.

    Args:
        space: left untouched, as are random generators.
        example_inputs: positional arguments of its forward.
        known: Results found before; grows.
    """

    def __init__(self, space: Space, example_inputs: Sequence[Any], known: Known) -> None:
        self._space = space
        self._inputs = tuple(example_inputs)
        self._known = known
        self._first = {decision.label: next(iter(decision.values())) for decision in space.decisions}

    def trace(self, arch: Mapping[str, Any]) -> RegionGraph:
        """Run the network as a canonical architecture.

        Raises:
            SpaceError: the network, or one of its candidates, does not run.
        """
        try:
            with torch_generators_kept():
                return self._run(self._twin, "meta", arch)
        except Exception:  # any user code runs here; the run on real tensors below says what is wrong
            with global_generators_kept():
                return self._run_with_data(arch)

    @cached_property
    def _twin(self) -> Twin:
        return Twin(self._space, has_data=False)

    def _run(self, twin: Twin, device: str | None, arch: Mapping[str, Any]) -> RegionGraph:
        # Parts of the space that the architecture leaves inactive run as their first values.
        return _Run(self._space, twin, device, self._known, {**self._first, **arch}).run(self._inputs)

    def _run_with_data(self, arch: Mapping[str, Any]) -> RegionGraph:
        try:
            return self._run(Twin(self._space, has_data=True), None, arch)
        except SpaceError:
            raise
        except Exception as error:
            shapes = ", ".join(str(tuple(t.shape)) for t in tensors_in(self._inputs)) or "none"
            raise SpaceError(
                f"{type(self._space).__name__} cannot be traced: it fails for example inputs of shape "
                f"{shapes}: {error}"
            ) from error


class _Run:
    """One run, in which choices report what enters and leaves them.

    Every call of a choice is a region of its own: cells that share a label follow one another here, and one
    shared sub-graph would be a circle.
    """

    def __init__(
        self, space: Space, twin: Twin, device: str | None, known: Known, arch: Architecture
    ) -> None:
        self.decision_space = space.decision_space
        self.device = device
        self.arch = arch
        self.twin = twin
        self.graph = RegionGraph(type(space).__name__, fixed=twin.fixed())
        self.flow = Flow(known)
        self.condition: Condition = ALWAYS
        self.inside: Edge | None = None
        self.within: Place | None = None
        self._charged = 0
        self._calls: Counter[str] = Counter()
        for condition, path, region in twin.held_regions():
            self._place(region, path, condition)
        self.network = twin.prepare(arch, self._call)

    def run(self, example_inputs: Sequence[Any]) -> RegionGraph:
        """Run the network once and return what was seen."""
        world = self.graph.add(Region("", "network", "", {}))
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            if self.device is not None:
                stack.enter_context(torch.device(self.device))
            stack.enter_context(self.flow)
            output = self.network(*(self._given(world, i, x) for i, x in enumerate(example_inputs)))
            self._charge(self.graph.fixed)
            world.nodes["output"] = {"kind": "network_output", **shape_attributes(tensors_in(output))}
            self._enter(End(world, "output"), output)
        return self.graph

    def _given(self, world: Region, index: int, value: Any) -> Any:
        if self.device is not None:
            value = map_tensors(lambda tensor: torch.empty_like(tensor, device=self.device), value)
        else:
            value = map_tensors(lambda tensor: tensor.detach().clone(), value)
        world.nodes[f"input_{index}"] = {
            "kind": "network_input",
            "index": index,
            **shape_attributes(tensors_in(value)),
        }
        return self.flow.marked(value, End(world, f"input_{index}"))

    # -- what every choice does ------------------------------------------------------------------------

    def _call(self, choice: Primitive, path: str, *args: Any, **kwargs: Any) -> Any:
        """Stands in for the forward of a choice."""
        region = self._place(layout(choice, path), path, self.twin.conditions.get(path, self.condition))
        for _, branch, child in choice.branches():
            edge = region.edges.get(branch)
            if edge is not None:
                cost = edge.costs[0]
                cost.paths.append(f"{path}.{branch}")
                if self._calls[path] == 1:  # weights used twice count once
                    for module in own_modules(child):
                        cost.add_parameters(module)
        twin: Any = self.network.get_submodule(path)
        if isinstance(choice, LayerChoice):
            return self._layer_choice(choice, twin, region, args, kwargs)
        if isinstance(choice, InputChoice):
            return self._input_choice(choice, region, args)
        if isinstance(choice, Repeat):
            return self._repeat(choice, twin, region, *args, **kwargs)
        if isinstance(choice, Cell):
            return self._cell(choice, twin, region, args, kwargs)
        return self._layer(choice, region, args, kwargs)

    def _place(self, region: Region, path: str, condition: Condition) -> Region:
        """Take up a region under a name no other call has."""
        region.places.append(Place(path, condition, self.inside, self.within))
        self._calls[path] += 1
        region.name = unique_name(region.base, path, self.twin.names)
        if self._calls[path] > 1:
            region.name += f"#{self._calls[path]}"
        return self.graph.add(region)

    def _enter(self, end: End, value: Any) -> None:
        """Connect the sources of `value` with the node where it enters."""
        end.region.nodes[end.local].update(shape_attributes(tensors_in(value)))
        self._connect(end, value)

    def _connect(self, end: End, value: Any) -> None:
        for source in sorted(self.flow.sources(value), key=str):
            if source != end:
                self.graph.connect(source, end, "data", self.condition, self.inside)

    def _leave(self, end: End, value: Any) -> Any:
        """Make `value` the feature map of a node."""
        end.region.nodes[end.local].update(shape_attributes(tensors_in(value)))
        return self.flow.marked(value, end)

    def _candidate(
        self,
        edge: Edge,
        module: Any,
        arch: Architecture | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        read: Callable[[Any], Any] | None = None,
    ) -> Any:
        """Run what is on an edge, on what it reads of the feature map it leaves; without `arch` None.

        What is alike is run once, unless `read` makes its input.
        """
        if arch is None:
            return None
        cost, known = edge.costs[0], self.flow.known.modules
        key = module.key(args, kwargs) if isinstance(module, Later) and read is None else None
        if key is not None and key in known:
            call, flops = known[key]
            cost.flops, cost.call = (cost.flops or 0) + flops, replace(call, arch=arch)
            return call.output
        before = cost.flops or 0
        outer = self.condition, self.inside, self.within, self.arch
        fresh_args, fresh_kwargs = self.flow.marked((args, kwargs), edge.source)
        with self._charged_to(cost):
            self.condition, self.arch = both(self.condition, edge.local), arch
            self.inside, self.within = edge, edge.source.region.places[0]
            try:
                run = module.copied() if isinstance(module, Later) else module
                args = fresh_args if read is None else (read(fresh_args[0]), *fresh_args[1:])
                output = run(*args, **fresh_kwargs)
                cost.call = Call(*map_tensors(without_data, (args, kwargs, output)), arch)
                for source in sorted(self.flow.sources(output), key=str):
                    if source != edge.source:
                        self.graph.connect(source, edge.target, "data", self.condition, edge)
            except SpaceError:
                raise
            except Exception as error:
                where = f"{edge.key!r} of {edge.source.region.name!r}"
                raise SpaceError(f"candidate {where} does not run on the example input: {error}") from error
            finally:
                self.condition, self.inside, self.within, self.arch = outer
        if key is not None:
            known[key] = cost.call, (cost.flops or 0) - before
        return output

    def _beside(self, choice: Primitive, module: nn.Module, chosen: Mapping[str, Any]) -> Architecture | None:
        """Architecture a candidate runs as that is not the one of the main run.

        None when the constraints forbid it next to what surrounds it: then it is not run.
        """
        own = {decision.label for decision in choice.decisions()}
        constrained = any(not c.labels.isdisjoint(own) for c in self.decision_space.constraints)
        isolated = isinstance(choice, Cell) or not constrained
        if isolated and not any(isinstance(child, Primitive) for child in module.modules()):
            return self.arch
        others = {label: value for label, value in self.arch.items() if label not in own}
        completed = self.decision_space.complete({**others, **chosen})
        return None if completed is None else {**self.arch, **chosen, **completed}

    @contextmanager
    def _charged_to(self, cost: Cost) -> Iterator[None]:
        """Count operations as those of `cost` meanwhile, not as those of what surrounds it."""
        outer = self.graph.fixed if self.inside is None else self.inside.costs[0]
        self._charge(outer)
        yield
        self._charge(cost)

    def _charge(self, cost: Cost) -> None:
        total = self.flow.total
        cost.flops = (cost.flops or 0) + total - self._charged
        self._charged = total

    # -- each kind -------------------------------------------------------------------------------------

    def _layer_choice(
        self, choice: LayerChoice, twin: Any, region: Region, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        self._enter(End(region, "in"), (args, kwargs))
        decision, result = choice.decision, None
        chosen = decision.position(self.arch[choice.label])
        for k, (name, module) in enumerate(zip(decision.values(), twin.candidates, strict=True)):
            arch = self.arch if k == chosen else self._beside(choice, module, {choice.label: name})
            output = self._candidate(region.edges[f"candidates.{k}"], module, arch, args, kwargs)
            result = output if k == chosen else result
        return self._leave(End(region, "out"), result)

    def _input_choice(self, choice: InputChoice, region: Region, args: tuple[Any, ...]) -> Any:
        tensors = as_inputs(args, choice.n_candidates, repr(choice.label))
        for i, tensor in enumerate(tensors):
            self._enter(End(region, f"in_{i}"), tensor)
            region.edges[str(i)].costs[0].flops = 0
        return self._leave(End(region, "out"), choice.freeze(self.arch)(*tensors))

    def _repeat(self, repeat: Repeat, twin: Any, region: Region, x: Any) -> Any:
        self._enter(End(region, "in"), x)
        states = [x]
        depth = repeat.depth.evaluate(self.arch)
        by_depth = _values_by_depth(repeat)
        for i, block in enumerate(twin.blocks):
            deeper = next(d for d in repeat.depths if d > i)
            arch = self.arch if i < depth else self._beside(repeat, block, by_depth[deeper])
            edge = region.edges[f"blocks.{i}"]
            if arch is None:
                break
            states.append(self._leave(edge.target, self._candidate(edge, block, arch, (states[-1],), {})))
        for d in repeat.depths:
            region.edges[f"depth {d}"].costs[0].flops = 0
        return self._leave(End(region, "out"), states[depth])

    def _cell(
        self, cell: Cell, twin: Any, region: Region, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        topology, frame = cell.topology, twin.frame
        given, states, further = frame.states(args, kwargs)
        for i, state in enumerate(states):
            self._enter(End(region, f"in_{i}"), state)
            self._connect(End(region, f"in_{i}"), (further.args, further.kwargs))
        chosen = topology.chosen(self.arch)
        outputs: dict[tuple[int, int, int], Any] = {}
        for row, (source, node) in enumerate(topology.edges):
            for k in topology.ranks(row):
                module = twin.edges[row][k]
                op, read = topology.slots(node)[0]
                slot = {op.label: topology.operations[k], read.label: source}
                arch = self.arch if (source, k) in chosen[node] else self._beside(cell, module, slot)
                outputs[source, node, k] = self._candidate(
                    region.edges[f"edges.{row}.{k}"],
                    module,
                    arch,
                    (states[source], *further.args),
                    dict(further.kwargs),
                    None if frame.projection is None else partial(frame.read, node, further=further),
                )
            if source == node - 1:  # every edge into the node has run
                total = sum_in_order([outputs[s, node, k] for s, k in sorted(chosen[node])])
                states.append(self._leave(End(region, state_name(topology, node)), frame.state(node, total)))
        joined = frame.join(states, (s for slots in chosen.values() for s, _ in slots))
        return frame.finish(self._leave(End(region, "out"), joined), given)

    def _layer(self, choice: Primitive, region: Region, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A layer with chosen arguments, or a primitive of the user's own, as the architecture has it."""
        self._enter(End(region, "in"), (args, kwargs))
        twin: Any = self.network.get_submodule(region.places[0].path)
        edge = next(iter(region.edges.values()))
        layer = later_layer(choice, twin, self.arch) or twin.freeze(self.arch)
        output = self._candidate(edge, layer, self.arch, args, kwargs)
        return self._leave(End(region, "out"), output)


def _values_by_depth(repeat: Repeat) -> dict[int, Architecture]:
    """For each depth one choice of the decisions that gives it."""
    found: dict[int, Architecture] = {}
    decisions = repeat.decisions()
    for values in itertools.product(*(list(decision.values()) for decision in decisions)):
        arch = {decision.label: value for decision, value in zip(decisions, values, strict=True)}
        found.setdefault(repeat.depth.evaluate(arch), arch)
    return found
