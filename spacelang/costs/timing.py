"""Measuring how long something takes, and where."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SpaceError, require_integer
from ..graph.tensors import example_arguments, map_tensors, tensors_in
from ..language import Space, Value
from ..language.base import without_decisions
from ..language.primitive import copied
from ..progress import with_bar
from ..randomness import torch_generators_kept
from .latency import FIXED, LatencyTable, Operation, operations
from .prices import named
from .traced import Traces, built, fitted


def median_milliseconds(run: Callable[[], object], device: torch.device, repeats: int, warmup: int) -> float:
    """Median time of `repeats` runs after `warmup` runs, each waiting until the device is done.

    Raises:
        SpaceError: `repeats` is less than 1, or `warmup` less than 0.
    """
    require_integer("repeats", repeats, least=1)
    require_integer("warmup", warmup, least=0)
    wait = _waiting(device)
    times = []
    for index in range(-warmup, repeats):
        wait()
        start = time.perf_counter()
        run()
        wait()
        if index >= 0:
            times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def _waiting(device: torch.device) -> Callable[[], object]:
    """Return a function that waits for everything queued on a device."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return torch.mps.synchronize if device.type == "mps" else lambda: None


def device_of(module: nn.Module) -> torch.device:
    """Where a module computes."""
    first = next(itertools.chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def measure_latency(space: Space, example_inputs: Any, *, repeats: int = 20, warmup: int = 3) -> LatencyTable:
    """Time every candidate of a space on the input it gets, on the device the space is on.

    Each runs alone, in evaluation mode without gradients, on random numbers of the shape that a trace of the
    default architecture shows; choices inside it hand out a recorded result meanwhile. A layer whose
    arguments are chosen runs for each of their combinations. Equal modules on equal shapes are timed once.

    Args:
        space: left untouched.
        example_inputs: a tensor, or a tuple of positional arguments of the forward.
        repeats: runs of which the median counts.
        warmup: runs before them.

    Raises:
        SpaceError: the network does not run on the example input.
    """
    inputs = example_arguments(example_inputs)
    traces = Traces(space, inputs)
    stopwatch = _Stopwatch(device_of(space), repeats, warmup)
    milliseconds = {FIXED: stopwatch.time(_alone(space, traces.default), inputs, {})}
    for operation in with_bar(operations(space, inputs), "measuring latency"):
        for values in operation.variants() if not operation.is_free else ():
            key = operation.keys(values)[0]
            if key not in milliseconds and traces.completed(values) is not None:
                milliseconds[key] = stopwatch.operation(traces, operation, values)
    device = stopwatch.device
    return LatencyTable(
        milliseconds,
        torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        tuple("x".join(map(str, tensor.shape)) for tensor in tensors_in(inputs)),
        repeats,
        torch.get_num_threads(),
    )


@dataclass
class _Stopwatch:
    """Times modules on a device; equal ones on equal inputs once."""

    device: torch.device
    repeats: int
    warmup: int
    _known: dict[str, float] = field(default_factory=dict)

    def operation(self, traces: Traces, operation: Operation, values: Mapping[str, Any]) -> float:
        """Time of an operation when its own decisions are `values`; 0 when no architecture has it."""
        call, spec = operation.cost.call, operation.cost.spec
        if call is None:
            return 0.0
        arch = {**call.arch, **values}
        try:
            if spec is not None:
                layer = built(spec, arch, call, self.device)
                return self._time_once(layer, *fitted(layer, call, spec.input_sizes(arch)))
            if operation.edge.kind == "layer":
                primitive: Any = traces.space.get_submodule(operation.place.path)
                return self._time_once(_alone(primitive.freeze(arch), arch), call.args, call.kwargs)
            module = traces.space.get_submodule(operation.cost.paths[0])
            return self._time_once(_alone(module, arch), call.args, call.kwargs)
        except Exception as error:  # any user code may run here
            raise SpaceError(
                f"{named(operation.edge)} cannot be timed for {dict(values)}: {error}"
            ) from error

    def _time_once(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
        shapes = [(name, tuple(tensor.shape)) for name, tensor in module.state_dict().items()]
        key = f"{module!r} {shapes} {args} {kwargs}"
        if key not in self._known:
            self._known[key] = self.time(module, *map_tensors(self._random, (args, kwargs)))
        return self._known[key]

    def _random(self, like: Tensor) -> Tensor:
        if not like.is_floating_point():
            return torch.zeros_like(like, device=self.device)
        generator = torch.Generator().manual_seed(0)
        return torch.rand(like.shape, generator=generator).to(self.device, like.dtype)

    def time(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
        """Median milliseconds of a forward pass."""
        args, kwargs = map_tensors(lambda tensor: tensor.to(self.device), (args, kwargs))
        with torch_generators_kept(self.device), torch.no_grad():
            module(*args, **kwargs)
            for part in module.modules():
                if isinstance(part, _Recorded):
                    part.is_replayed = True
            return median_milliseconds(
                lambda: module(*args, **kwargs), self.device, self.repeats, self.warmup
            )


class _Recorded(nn.Module):
    """Stands for a choice: runs it once, and hands out the same results from then on."""

    def __init__(self, choice: nn.Module) -> None:
        super().__init__()
        self.choice = choice
        self.outputs: list[Any] = []
        self.calls = 0
        self.is_replayed = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not self.is_replayed:
            self.outputs.append(self.choice(*args, **kwargs))
            return self.outputs[-1]
        self.calls += 1
        return self.outputs[(self.calls - 1) % len(self.outputs)]


def _alone(module: nn.Module, arch: Mapping[str, Any]) -> nn.Module:
    """Copy of a module whose choices, chosen as in `arch`, take no time after their first run."""

    def replace(item: Any) -> Any:
        return item.evaluate(arch) if isinstance(item, Value) else _Recorded(item.freeze(arch))

    return without_decisions(copied(module, replace)).eval()
