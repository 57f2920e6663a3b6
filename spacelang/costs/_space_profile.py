"""How much the models of a space differ in what they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from ..language import Architecture, ModelSpace
from ._limits import Range
from ._survey import Survey

if TYPE_CHECKING:
    from ..results import Profile

_MEASURED = 8
_SEED = 0


@dataclass(frozen=True)
class SpaceProfile:
    """Ranges of what models of a space cost in one forward pass of the whole batch.

    Attributes:
        parameters: number of weights.
        flops: floating-point operations, see `spacelang.results.Profile`.
        activation_memory: bytes kept for the backward pass; None where no model trains on the input.
        latency: milliseconds; None unless asked for.

    Parameters and FLOPs are searched for. The other two are no sum over choices; they are measured on a few
    models (all, where there are at most 8): those that have the fewest and most parameters and FLOPs, the
    default and random ones.
    """

    parameters: Range
    flops: Range
    activation_memory: Range | None
    latency: Range | None = None

    def __str__(self) -> str:
        rows = [
            ("parameters", self.parameters),
            ("FLOPs", self.flops),
            ("activation memory (bytes)", self.activation_memory),
            ("latency (ms)", self.latency),
        ]
        return "\n".join(f"{name}: {found}" for name, found in rows if found is not None)


def profile_space(
    space: ModelSpace, inputs: tuple[Any, ...], *, latency: bool = False, repeats: int = 20
) -> SpaceProfile:
    """See `spacelang.profile`."""
    from ..results import profile

    parameters, flops = Survey(space, "params").range, Survey(space, "flops", inputs).range
    ends = [r.smallest_architecture for r in (parameters, flops)]
    ends += [r.largest_architecture for r in (parameters, flops)]
    models = [
        (arch, profile(space.freeze(arch), inputs, latency=latency, repeats=repeats))
        for arch in _some(space, ends)
    ]
    is_all = len(models) == space.size()
    memory = _extremes(models, lambda found: found.activation_memory, is_all)
    return SpaceProfile(parameters, flops, memory, _extremes(models, lambda found: found.latency, is_all))


def _some(space: ModelSpace, first: list[Architecture]) -> list[Architecture]:
    """A few architectures, beginning with some; all, where there are few."""
    if space.size() <= _MEASURED:
        return list(space.grid())
    rng = np.random.default_rng(_SEED)

    def drawn() -> Iterator[Architecture]:
        yield from (*first, space.default())
        while True:
            yield space.sample(rng)

    found: list[Architecture] = []
    for arch in islice(drawn(), _MEASURED):
        if arch not in found:
            found.append(arch)
    return found


def _extremes(
    models: list[tuple[Architecture, Profile]], cost: Callable[[Profile], float | None], is_all: bool
) -> Range | None:
    known = [(value, arch) for arch, found in models if (value := cost(found)) is not None]
    if not known:
        return None
    (low, low_arch), (high, high_arch) = min(known, key=lambda p: p[0]), max(known, key=lambda p: p[0])
    return Range(low, high, low_arch, high_arch, is_all, len(known))
