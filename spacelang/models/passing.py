"""Stand-ins for blocks that are left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from ..language import Condition, Decision, Is, Primitive, Relaxer, Value
from ..language.conditions import ALWAYS
from ..language.context import FreezeContext
from ..supernet import Group, Mixed, add_weighted
from .couplings import Recorded


class Passing(nn.Module):
    """A block's place without the block: returns the first tensor of a call, in what the block would return.

    Args:
        keyword: Name of the argument that is passed on; None for the first positional one.
        rest: Further outputs of the block, behind the first; None if it returns a tensor alone.
    """

    def __init__(self, keyword: str | None, rest: tuple[Any, ...] | None) -> None:
        super().__init__()
        self.keyword = keyword
        self.rest = rest

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        x = args[0] if self.keyword is None else kwargs[self.keyword]
        return x if self.rest is None else (x, *self.rest)


def passing(call: Recorded | None) -> nn.Module | str:
    """Return what can stand in place of a block, or why nothing can.

    Args:
        call: A call of the block; None if there was none.
    """
    if call is None:
        return "the network never calls it"
    keyword = None if call.args else next(iter(call.kwargs), None)
    given = call.args[0] if call.args else call.kwargs.get(keyword or "")
    whole = isinstance(call.output, Tensor)
    returned = call.output if whole else call.output[0] if _is_pair(call.output) else None
    if not isinstance(given, Tensor) or not isinstance(returned, Tensor):
        return "it does not turn a tensor into one"
    if given.shape != returned.shape:
        return f"it turns {tuple(given.shape)} into {tuple(returned.shape)}"
    rest = None if whole else tuple(call.output[1:])
    if rest is not None and any(isinstance(item, Tensor) for item in rest):
        return "it returns further tensors"
    if keyword is None and rest is None and len(call.args) == 1 and not call.kwargs:
        return nn.Identity()
    return Passing(keyword, rest)


def _is_pair(value: object) -> bool:
    return type(value) is tuple and bool(value)


class KeptBlock(Primitive):
    """One block of a container of which the first ones are kept.

    Args:
        block: The block.
        without: Module that stands in its place.
        depth: Number of blocks that are kept.
        index: Place of this one in the container.
    """

    def __init__(self, block: nn.Module, without: nn.Module, depth: Value, index: int) -> None:
        super().__init__()
        self.block, self.without = block, without
        self.depth, self.index = depth, index

    @classmethod
    def build(cls, context: FreezeContext | None, *args: Any, **kwargs: Any) -> nn.Module | None:
        return None

    @property
    def deeper(self) -> tuple[Any, ...]:
        """Depths with which the block is there."""
        return tuple(depth for depth in self.depth.possible() if depth > self.index)

    def decisions(self) -> tuple[Decision, ...]:
        return self.depth.decisions()

    def branches(self) -> Iterable[tuple[Condition, str, nn.Module]]:
        return [(Is(self.depth, self.deeper), "block", self.block), (ALWAYS, "without", self.without)]

    def freeze(self, arch: Mapping[str, Any]) -> nn.Module:
        return self.block if self.depth.evaluate(arch) > self.index else self.without

    def relax(self, builder: Relaxer) -> nn.Module:
        (decision,) = self.decisions()
        return _MixedBlock(builder.group(decision), self.block, self.without, self.index)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        first = self.depth.possible()[0]
        return (self.block if first > self.index else self.without)(*args, **kwargs)


class _MixedBlock(Mixed):
    """Block i of a mixture of depths: y = P(depth > i) f(x) + P(depth <= i) x."""

    def __init__(self, group: Group, block: nn.Module, without: nn.Module, index: int) -> None:
        super().__init__()
        self.group = group
        self.block, self.without, self.index = block, without, index

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        group = self.group
        outputs: dict[bool, Any] = {}
        terms = []
        for k in group.active[0]:
            is_there = group.columns[k] > self.index
            if is_there not in outputs:
                outputs[is_there] = (self.block if is_there else self.without)(*args, **kwargs)
            terms.append((group.columns[k], group.weighted(0, k, outputs[is_there])))
        if group.weights is None and len(terms) == 1:
            return next(iter(outputs.values()))
        return add_weighted(terms, repr(group.label), group.gates(0))

    def freeze(self, arch: Mapping[str, Any]) -> nn.Module:
        return self.block if arch[self.group.label] > self.index else self.without
