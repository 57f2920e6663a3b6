"""Elastic layers: one set of weights, sliced to whatever sizes are chosen."""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map_only

from ..errors import SpaceError, quoted
from ..language.values import evaluate
from ..nn import Sizes, ValueLayer
from .elastic_merge import make_plan
from .elastic_plan import Combination, Plan, scaled, tensors_in
from .elastic_refusal import Produced, refusal
from .group import Group
from .mixed import Mixed, add_weighted

F = TypeVar("F", bound=Callable[..., Any])
Column: TypeAlias = int | tuple[int, ...]
"""The position of a candidate, or those of a set that is chosen together."""
Columns: TypeAlias = tuple[tuple[Column, ...], ...]
"""For each group of a layer, the positions of some candidates."""

_MOST_COMBINATIONS = 1000
_KEPT_PLANS = 32


def _uncompiled(method: F) -> F:
    """Mark a method that `torch.compile` must call as it is: what it has made, later calls look up.

    It is the mark that `torch.compiler.disable` sets; that function would load the compiler, one second, with
    every import of this module.
    """
    method._torchdynamo_disable = True  # type: ignore[attr-defined]
    return method


class ElasticLayer(Mixed):
    """A layer whose arguments are chosen, computed with slices of its largest weights.

    With weights `p_c` of the combinations `c` of its active choices it computes

        y = sum_c p_c pad(f_c(cut(x))),    p_c = product over decisions of the weight of the choice in c.

    `f_c` is the layer of a combination. `cut` takes as many of the first entries as `f_c` reads, along the
    dimensions whose sizes are chosen (channels, features); `pad` appends zeros up to the largest size any
    active combination has. Layers that share an expression for a size so fit together, whatever is active.
    With one active choice of every decision that slice alone is computed, without padding.

    Running statistics are sliced by view. A pass updates those of each channel once, however many
    combinations it is in: by the call with most channels, of equal ones the first.

    Args:
        groups: Tables of the layer's decisions.
        layer: The primitive.
        produced: Sizes that layers of the network return, to which this one adds its own. Without it a sum of
            choices is refused as an input size, since it may be that of a concatenation.
    """

    def __init__(self, groups: Sequence[Group], layer: ValueLayer, produced: Produced | None = None) -> None:
        super().__init__()
        self.groups = list(groups)
        self.spec = layer.spec
        self.largest = layer.largest
        self.sizes = layer.mixed_sizes()
        self.produced = Produced() if produced is None else produced
        if produced is not None and self.sizes is not None:
            produced.add(self.spec, self.sizes, self.largest)
        self._combinations: dict[tuple[Column, ...], Combination] = {}
        self._distinct: dict[str, Combination] = {}
        self._plans: dict[Any, Plan] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_combinations": {}, "_distinct": {}, "_plans": {}}

    @property
    def name(self) -> str:
        """Labels and layer, for messages."""
        return f"{', '.join(repr(group.label) for group in self.groups)}: {self.spec}"

    @property
    def soft_refusal(self) -> str | None:  # type: ignore[override]
        if self.spec.ranges:
            labels = ", ".join(map(repr, self.spec.ranges))
            return f"{self.name} depends on the range {labels}, of which there is no mixture"
        sets = [group.label for group in self.groups if group.is_subset]
        if sets:  # a table gives no joint probabilities
            return f"{self.name} depends on {quoted(sets)}, a choice of several values, which cannot be mixed"
        alive = (tuple(k for k, kept in enumerate(group.alive[0]) if kept) for group in self.groups)
        return self._refusal(tuple(alive))

    def freeze(self, arch: Mapping[str, Any]) -> nn.Module:
        return self.spec.sliced(self.largest, arch)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        columns = tuple(map(self._options, self.groups))
        if not all(columns):
            add_weighted([], self.name)  # raises
        if all(len(active) == 1 for active in columns):
            output = self._chosen(tuple(active[0] for active in columns), args, kwargs)
        else:
            joint = self._joint(columns, tensors_in((args, kwargs))[0].device)
            output = self._plan(columns, joint)(joint, args, kwargs, training=self.training)
        gates = [gate for group in self.groups for gate in group.gates(0)]
        return tree_map_only(Tensor, lambda y: sum(gates, y), output) if gates else output

    def _options(self, group: Group) -> tuple[Column, ...]:
        """Return the active candidates of a group, of which a selected set is one."""
        active = group.active[0]
        if not group.is_subset:
            return active
        if not group.is_selected and active:
            raise SpaceError(f"{self.soft_refusal}; call supernet.select(arch).")
        return (active,) if active else ()

    def _chosen(self, columns: tuple[Column, ...], args: Any, kwargs: Any) -> Any:
        """Return the output of one combination times its weight; without one, exactly the frozen layer's."""
        layer = self._combination(columns).layer.train(self.training)
        slices = self.spec.slices(self.largest, layer)
        output = functional_call(layer, slices, args, kwargs)
        if self.training:
            self.spec.keep(self.largest, layer, slices)
        factors = [
            g.weights[0, k] for g, k in zip(self.groups, columns, strict=True) if g.weights is not None
        ]
        return scaled(output, functools.reduce(operator.mul, factors)) if factors else output

    def _joint(self, columns: Columns, device: torch.device) -> Tensor:
        """Return the product of the groups' weights for each joint choice of columns, (joint choices,)."""
        joint: Tensor | None = None
        for group, active in zip(self.groups, columns, strict=True):
            if group.weights is None:  # selected: its one column has weight one
                continue
            row = group.weights[0]
            row = row if len(active) == len(row) else torch.stack([row[k] for k in active])
            row = row.to(device)
            joint = row if joint is None else (joint[:, None] * row).flatten()
        assert joint is not None  # some group has several columns active, so it has weights
        return joint

    def _combination(self, columns: tuple[Column, ...]) -> Combination:
        if self.spec.ranges:  # a column does not say which number it stands for
            return self._make_combination(columns)
        if columns not in self._combinations:
            self._combinations[columns] = self._make_combination(columns)
        return self._combinations[columns]

    @_uncompiled
    def _make_combination(self, columns: tuple[Column, ...]) -> Combination:
        arch = {group.label: group.chosen(k) for group, k in zip(self.groups, columns, strict=True)}
        arguments = evaluate(dict(self.spec.arguments), arch)
        key = repr(arguments)
        if key not in self._distinct:
            if len(self._distinct) == _MOST_COMBINATIONS:  # numbers of a range
                self._distinct.clear()
            name = ", ".join(f"{label}={value}" for label, value in arch.items())
            try:
                with torch.device("meta"):
                    layer = self.spec.build(arch)
                self.spec.slices(self.largest, layer)
            except (SpaceError, AssertionError, RuntimeError, TypeError, ValueError) as error:
                raise SpaceError(f"{self.name} cannot be built for {name}: {error}") from error
            self._distinct[key] = Combination(name, arguments, layer)
        return self._distinct[key]

    def _plan(self, columns: Columns, joint: Tensor) -> Plan:
        key = (columns, joint.device, joint.dtype)
        if key not in self._plans:
            if len(self._plans) == _KEPT_PLANS:
                del self._plans[next(iter(self._plans))]
            self._plans[key] = self._make_plan(columns, joint)
        return self._plans[key]

    @_uncompiled
    def _make_plan(self, columns: Columns, joint: Tensor) -> Plan:
        reason = self._refusal(columns)
        if reason:
            raise SpaceError(f"{reason}; call supernet.select(arch).")
        chosen = list(map(self._combination, itertools.product(*columns)))
        order = {combination: position for position, combination in enumerate(dict.fromkeys(chosen))}
        sizes = self.sizes or Sizes({}, ({},))  # not known, but there is one combination
        return make_plan(
            self.name, self.spec, self.largest, sizes, list(order), [order[c] for c in chosen], joint
        )

    def _refusal(self, columns: Columns) -> str | None:
        """Return why combinations of these columns cannot be mixed, or None."""
        count = math.prod(map(len, columns))
        if count <= 1:
            return None
        if count > _MOST_COMBINATIONS:
            return (
                f"{self.name} has {count} combinations of choices; at most {_MOST_COMBINATIONS} can be mixed"
            )
        try:
            combinations = list(dict.fromkeys(map(self._combination, itertools.product(*columns))))
        except SpaceError as error:
            return str(error).rstrip(".")
        reason = refusal(self.spec, self.sizes, self.largest, combinations, self.produced)
        return reason and f"{self.name} {reason}"
