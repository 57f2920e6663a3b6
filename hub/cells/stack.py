"""A stack of cells whose number may be chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from torch import nn

from spacelang.errors import SpaceError
from spacelang.language import Categorical, Choice, Condition, Decision, Is, Primitive, Relaxer, Value
from spacelang.supernet import Group, Mixed

Plan = TypeVar("Plan")


class CellStack(Primitive):
    """Cells of a network whose depth may be chosen; iterating yields the cells of one depth in order.

    Depths share the cells whose plans are equal. With a fixed depth the constructor returns an
    `nn.ModuleList`, and so does freezing.

    Args:
        depth: Number of cells, or a value choice.
        layouts: Plans of the cells at each depth.
        make: Makes a cell; called once for each different plan, in the order of the first depth.
    """

    def __init__(
        self,
        depth: int | Value,
        layouts: Mapping[int, Sequence[Plan]],
        make: Callable[[Plan], nn.Module],
    ) -> None:
        super().__init__()
        assert isinstance(depth, Value)
        (decision,) = depth.decisions()
        assert isinstance(decision, Categorical)
        self.decision = decision
        self._depth: Any = depth  # in a trace it is the number of one architecture
        plans = list(dict.fromkeys(plan for layout in layouts.values() for plan in layout))
        self.cells = nn.ModuleList(map(make, plans))
        self.order = {n: tuple(map(plans.index, layout)) for n, layout in layouts.items()}

    @classmethod
    def build(cls, context: Any, *args: Any, **kwargs: Any) -> nn.Module | None:
        depth, layouts, make = args
        if not isinstance(depth, Value):
            return nn.ModuleList(map(make, layouts[depth]))
        return super().build(context, *args, **kwargs)

    def decisions(self) -> tuple[Decision, ...]:
        return (self.decision,)

    def branches(self) -> Iterable[tuple[Condition, str, nn.Module]]:
        for index, cell in enumerate(self.cells):
            depths = tuple(n for n, order in self.order.items() if index in order)
            yield Is(Choice(self.decision), depths), f"cells.{index}", cell

    def freeze(self, arch: Mapping[str, Any]) -> nn.Module:
        return nn.ModuleList(
            self.cells[k] for k in self.order[self.decision.parse(arch[self.decision.label])]
        )

    def relax(self, builder: Relaxer) -> nn.Module:
        return MixedStack(builder.group(self.decision), self.decision, self.cells, self.order)

    def __iter__(self) -> Iterator[nn.Module]:
        depth = next(iter(self.order)) if isinstance(self._depth, Value) else self._depth
        return (self.cells[k] for k in self.order[depth])


class MixedStack(Mixed):
    """A `CellStack` in a supernet: it computes one depth at a time."""

    def __init__(
        self,
        group: Group,
        decision: Categorical,
        cells: nn.ModuleList,
        order: Mapping[int, tuple[int, ...]],
    ) -> None:
        super().__init__()
        self.group = group
        self.decision = decision
        self.cells = cells
        self.order = order
        self.soft_refusal = f"{decision.label!r}: a network computes one number of cells at a time"

    def __iter__(self) -> Iterator[nn.Module]:
        if not self.group.is_selected:
            raise SpaceError(f"{self.soft_refusal}; call supernet.select(arch).")
        return (self.cells[k] for k in self.order[self.group.selected])

    def freeze(self, arch: Mapping[str, Any]) -> nn.Module:
        return nn.ModuleList(
            self.cells[k] for k in self.order[self.decision.parse(arch[self.decision.label])]
        )
