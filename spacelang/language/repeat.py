"""Repeat: a block stacked a chosen number of times."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import nn

from ..errors import SpaceError, quoted
from .choices import made
from .conditions import ALWAYS, Condition, Is
from .context import FreezeContext
from .decisions import Categorical, Decision
from .intervals import Interval
from .labels import branch_scope, in_scope, make_label
from .primitive import Primitive, Relaxer, Undecided
from .values import Choice, Value

Blocks: TypeAlias = (
    "nn.Module | Callable[[int], nn.Module] | Sequence[nn.Module | Callable[[int], nn.Module]]"
)


class Repeat(Primitive):
    """Stack a block `depth` times; depth 0 is the identity.

    Args:
        blocks: A module (repeated as independent copies, which share labels), a factory `f(index)`, or a
            list with one of these for every position.
        depth: A number; `(min, max)`, both included, which makes a decision; or a value choice.
        label: Name of the depth decision; numbered inside `ModelSpace.__init__` when missing. Not used when
            depth is a value choice, which has its own.

    With a fixed depth, and in `model_context`, the constructor returns an `nn.Sequential`. In a space
    `forward` runs the smallest depth.
    """

    def __init__(
        self, blocks: Blocks, depth: int | tuple[int, int] | Value, *, label: str | None = None
    ) -> None:
        super().__init__()
        self.depth, name = _depth(depth, label)
        self.depths = tuple(sorted(_checked_depths(self.depth.possible(), name)))
        self.blocks = nn.ModuleList(_make_blocks(blocks, self.depths[-1], name))

    @classmethod
    def build(cls, context: FreezeContext | None, *args: Any, **kwargs: Any) -> nn.Module | None:
        bound = inspect.signature(cls.__init__).bind(None, *args, **kwargs).arguments
        if type(bound["depth"]) is int:
            name = _block_scope(bound.get("label"), "repeat")
            _checked_depths([bound["depth"]], name)
            return nn.Sequential(*_make_blocks(bound["blocks"], bound["depth"], name))
        if context is None:
            return None
        depth, name = _depth(bound["depth"], bound.get("label"))
        chosen = context.resolve(depth)
        if isinstance(chosen, Value):
            undecided = Undecided(context.problems(depth.decisions()))
            # Blocks that every depth has tell what they lack too.
            fewest = min(_checked_depths(depth.possible(), name))
            undecided.blocks = nn.Sequential(*_make_blocks(bound["blocks"], fewest, name))
            return undecided
        return nn.Sequential(*_make_blocks(bound["blocks"], chosen, name))

    def decisions(self) -> tuple[Decision, ...]:
        return self.depth.decisions()

    def extra_repr(self) -> str:
        given = "" if isinstance(self.depth, Choice) else f"depth={self.depth}; "
        return given + super().extra_repr()

    def branches(self) -> Iterable[tuple[Condition, str, nn.Module]]:
        for index, block in enumerate(self.blocks):
            deeper = tuple(d for d in self.depths if d > index)
            always = deeper == self.depths
            yield ALWAYS if always else Is(self.depth, deeper), f"blocks.{index}", block

    def freeze(self, arch: Mapping[str, Any]) -> nn.Module:
        return nn.Sequential(*self.blocks[: self.depth.evaluate(arch)])

    def relax(self, builder: Relaxer) -> nn.Module:
        return builder.mixed(self)

    def forward(self, x: Any) -> Any:
        for block in self.blocks[: self.depths[0]]:
            x = block(x)
        return x


def _depth(depth: Any, label: str | None) -> tuple[Value, str]:
    """Return the depth as a value, and the name its blocks are numbered under."""
    if isinstance(depth, Value):
        ranges = [decision.label for decision in depth.decisions() if isinstance(decision, Interval)]
        if ranges:
            raise SpaceError(f"a depth depends on the range {quoted(ranges)}; use value_choice([...]).")
        return depth, _block_scope(label, str(depth))
    name = make_label("depth", label)
    legal = isinstance(depth, tuple | list) and len(depth) == 2 and all(type(d) is int for d in depth)
    if not legal or not 0 <= depth[0] <= depth[1]:
        raise SpaceError(
            f"{name!r}: depth={depth!r}; expected a number, (min, max) with 0 <= min <= max, "
            "or a value choice."
        )
    return Choice(Categorical(name, range(depth[0], depth[1] + 1))), name


def _block_scope(label: str | None, otherwise: str) -> str:
    """Return the name under which the blocks of a `Repeat` without a decision of its own are numbered."""
    return make_label("depth", label) if label or in_scope() else otherwise


def _checked_depths(depths: Sequence[Any], name: str) -> Sequence[int]:
    for depth in depths:
        if type(depth) is not int or depth < 0:
            raise SpaceError(
                f"{name!r}: depth can be {depth!r}; every depth must be an integer of at least 0."
            )
    return depths


def _make_blocks(blocks: Any, depth: int, name: str) -> list[nn.Module]:
    if isinstance(blocks, list | tuple | nn.ModuleList) and len(blocks) < depth:
        raise SpaceError(f"{name!r}: depth can reach {depth}, but only {len(blocks)} blocks are given.")
    made_blocks = []
    for index in range(depth):
        block = blocks[index] if isinstance(blocks, list | tuple | nn.ModuleList) else blocks
        if block is blocks and isinstance(block, nn.Module) and index > 0:
            block = copy.deepcopy(block)
        with branch_scope(name, index):
            made_blocks.append(made(block, f"{name!r}: block {index}", index))
    return made_blocks
