"""The graph of a space with the data flow between its choices, found by running it."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from ..errors import SpaceError
from ..language import Cell, Condition, InputChoice, LayerChoice, Primitive, Repeat, Space, Value
from ..language.choices import as_inputs, sum_in_order
from ..language.conditions import ALWAYS, both
from ..language.context import copy_with
from ..language.decisions import Architecture
from ..language.primitive import walk
from ..language.values import decisions_of
from ..randomness import global_generators_kept, torch_generators_kept
from .choice_regions import base_name, held_region, layout, state_name
from .reading import own_modules
from .regions import Call, Cost, Edge, End, Place, Region, RegionGraph, unique_name
from .tensors import Flow, QuickShapes, map_tensors, shape_attributes, tensors_in, without_data


def trace(space: Space, example_inputs: Sequence[Any], arch: Mapping[str, Any]) -> RegionGraph:
    """Run a copy of `space` and read its graph, data flow included.

    The network runs as `arch`, in evaluation mode; beside that, every candidate runs once on the input it
    would get. The run is on the meta device, without arithmetic; a network that looks at values runs as it
    is.

    Args:
        space: left untouched, as are random generators.
        example_inputs: positional arguments of its forward.
        arch: canonical architecture the network runs as.

    Raises:
        SpaceError: the network, or one of its candidates, does not run.
    """
    try:
        with torch_generators_kept():
            return _Tracer(space, arch, "meta").run(example_inputs)
    except Exception:  # any user code runs here; the run on real tensors below says what is wrong
        with global_generators_kept():
            return _run_as_it_is(space, example_inputs, arch)


def _run_as_it_is(space: Space, example_inputs: Sequence[Any], arch: Mapping[str, Any]) -> RegionGraph:
    try:
        return _Tracer(space, arch, None).run(example_inputs)
    except SpaceError:
        raise
    except Exception as error:
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors_in(tuple(example_inputs))) or "none"
        raise SpaceError(
            f"{type(space).__name__} cannot be traced: it fails for example inputs of shape {shapes}: {error}"
        ) from error


class _Tracer:
    """One run of a copy of a space whose choices report what enters and leaves them.

    Every call of a choice is a region of its own: cells that share a label follow one another here, and one
    shared sub-graph would be a circle.
    """

    def __init__(self, space: Space, arch: Mapping[str, Any], device: str | None) -> None:
        from torch.utils.flop_counter import FlopCounterMode  # late: it loads Triton, 0.15 s

        self.decision_space = space.decision_space
        self.device = device
        self.graph = RegionGraph(type(space).__name__)
        self.graph.fixed.flops = 0
        self.flow = Flow()
        self.flops = FlopCounterMode(display=False)
        self.arch: Architecture = {**_first_values(space), **arch}
        self.condition: Condition = ALWAYS
        self.inside: Edge | None = None
        self.within: Place | None = None
        self._charged = 0
        self._calls: Counter[str] = Counter()
        found = {path: module for path, module in space.named_modules() if isinstance(module, Primitive)}
        held = [(condition, path, region) for condition, path, region in _held(space)]
        self._places = {path: condition for condition, path, _ in walk(space)}
        self._claims = Counter(base_name(choice, path) for path, choice in found.items())
        self._claims.update(region.base for _, _, region in held)
        for condition, path, region in held:
            self._place(region, path, condition)
        for module in own_modules(space):
            self.graph.fixed.add_parameters(module)
        self.network = self._copy(space, found)

    # -- preparing -----------------------------------------------------------------------------------

    def _copy(self, space: Space, found: Mapping[str, Primitive]) -> nn.Module:
        """Copy of the space whose choices call back here; without data on the meta device."""

        def replace(item: Any) -> Any:
            return item.evaluate(self.arch) if isinstance(item, Value) else item

        memo: dict[int, Any] = {}
        if self.device is not None:
            memo = {id(t): without_data(t) for t in (*space.parameters(), *space.buffers())}
        with copy_with(replace):
            network = copy.deepcopy(space, memo).eval()
        for path, choice in found.items():
            twin = network.get_submodule(path).__dict__
            # In the instance's dict it is found before the forward of the class.
            twin["forward"] = partial(self._call, choice, path)
            # A choice reads its own expressions under the architecture it is asked for.
            twin.update({k: v for k, v in vars(choice).items() if not k.startswith("_") and decisions_of(v)})
        return network

    def run(self, example_inputs: Sequence[Any]) -> RegionGraph:
        """Run the network once and return what was seen."""
        world = self.graph.add(Region("", "network", "", {}))
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            if self.device is not None:
                stack.enter_context(torch.device(self.device))
                stack.enter_context(QuickShapes())
            stack.enter_context(self.flow)
            stack.enter_context(self.flops)
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
        region = self._place(layout(choice, path), path, self._places.get(path, self.condition))
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
        region.name = unique_name(region.base, path, self._claims)
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
        run: Any,
        arch: Architecture | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        read: Callable[[Any], Any] = lambda x: x,
    ) -> Any:
        """Run what is on an edge, on what it reads of the feature map it leaves; without `arch` None."""
        if arch is None:
            return None
        outer = self.condition, self.inside, self.within, self.arch
        fresh_args, fresh_kwargs = self.flow.marked((args, kwargs), edge.source)
        with self._charged_to(edge.costs[0]):
            self.condition, self.arch = both(self.condition, edge.local), arch
            self.inside, self.within = edge, edge.source.region.places[0]
            try:
                args = (read(fresh_args[0]), *fresh_args[1:]) if args else ()
                output = run(*args, **fresh_kwargs)
                edge.costs[0].call = Call(*map_tensors(without_data, (args, kwargs, output)), arch)
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
        total = int(self.flops.get_total_flops())
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
                    partial(frame.read, node, further=further),
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
        output = self._candidate(edge, twin.freeze(self.arch), self.arch, args, kwargs)
        return self._leave(End(region, "out"), output)


def _first_values(space: Space) -> Architecture:
    """A value for every label, for parts of the space that the architecture of the run leaves inactive."""
    return {decision.label: next(iter(decision.values())) for decision in space.decisions}


def _held(space: Space) -> Iterator[tuple[Condition, str, Region]]:
    """Values that plain modules keep as attributes."""
    for condition, path, module in walk(space):
        region = None if isinstance(module, Primitive) else held_region(module, path)
        if region is not None:
            yield condition, path, region


def _values_by_depth(repeat: Repeat) -> dict[int, Architecture]:
    """For each depth one choice of the decisions that gives it."""
    found: dict[int, Architecture] = {}
    decisions = repeat.decisions()
    for values in itertools.product(*(list(decision.values()) for decision in decisions)):
        arch = {decision.label: value for decision, value in zip(decisions, values, strict=True)}
        found.setdefault(repeat.depth.evaluate(arch), arch)
    return found
