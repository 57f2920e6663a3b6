"""Relaxed forms of layer, input and depth choices."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from ..errors import SpaceError, quoted
from ..language import Absent, Value
from ..language.choices import Reduction, as_inputs, chosen_inputs, reduce_inputs, sum_in_order
from ..language.primitive import Replaceable
from .group import Group


class Mixed(Replaceable):
    """A relaxed choice. It knows its groups' mixtures, and no algorithm.

    `freeze(arch)` returns the module it becomes; `soft_refusal` says why a mixture of several candidates
    cannot be computed, or is None.
    """

    soft_refusal: str | None = None

    def freeze(self, arch: Mapping[str, Any]) -> nn.Module:
        """Return the module chosen by `arch`."""
        raise NotImplementedError

    def drop_pruned(self) -> None:
        """Remove the modules of pruned candidates."""


def add_weighted(terms: Sequence[tuple[object, Any]], where: str, gates: Sequence[Tensor] = ()) -> Any:
    """Sum the outputs of candidates, given as `(name, weighted output)`, and then plain numbers, `gates`.

    Outputs may be tensors, or tuples, lists and dicts of them, which are summed tensor by tensor.

    Raises:
        SpaceError: Two candidates disagree on the shape or the structure; names both.
    """
    if not terms:
        raise SpaceError(
            f"{where} runs no candidate: its mixture is empty or the architecture leaves it inactive."
        )
    first_name, total = terms[0]
    if not all(isinstance(term, Tensor) for _, term in terms):
        return _add_structures(terms, where, gates)
    for name, term in terms[1:]:
        if term.shape != total.shape:
            raise SpaceError(
                f"{where}: candidates must return the same shape; {first_name!r} returned "
                f"{tuple(total.shape)}, {name!r} {tuple(term.shape)}."
            )
        total = total + term
    for gate in gates:
        total = total + gate
    return total


def _add_structures(terms: Sequence[tuple[object, Any]], where: str, gates: Sequence[Tensor]) -> Any:
    """Sum outputs that are not all tensors; what is no tensor in them must be the same in all."""
    (first_name, first), *others = [(name, tree_flatten(term)) for name, term in terms]
    for name, (_, structure) in others:
        if structure != first[1]:
            raise SpaceError(
                f"{where}: candidates must return the same structure of tensors; {first_name!r} and {name!r} "
                f"returned {first[1]} and {structure}."
            )
    rows = [
        [(first_name, leaf), *((n, leaves[i]) for n, (leaves, _) in others)]
        for i, leaf in enumerate(first[0])
    ]
    return tree_unflatten([_add_leaves(row, where, gates) for row in rows], first[1])


def _add_leaves(leaves: Sequence[tuple[object, Any]], where: str, gates: Sequence[Tensor]) -> Any:
    if any(isinstance(leaf, Tensor) for _, leaf in leaves):
        if all(isinstance(leaf, Tensor) for _, leaf in leaves):
            return add_weighted(leaves, where, gates)
    elif all(leaf == leaves[0][1] for _, leaf in leaves):
        return leaves[0][1]
    names = quoted(name for name, _ in leaves)
    raise SpaceError(
        f"{where}: {names} returned different things, which are no tensors and cannot be summed."
    )


class MixedLayer(Mixed):
    """Weighted sum of candidate layers: y = sum_k w_k f_k(x)."""

    def __init__(self, group: Group, candidates: nn.ModuleList) -> None:
        super().__init__()
        self.group = group
        self.candidates = candidates

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        group, active = self.group, self.group.active[0]
        outputs = ((k, group.apply(self.candidates[k], self.candidates[k](*args, **kwargs))) for k in active)
        if group.weights is None and len(active) == 1:  # whatever type the candidate returns passes through
            return next(outputs)[1]
        terms = [(group.columns[k], group.weighted(0, k, y)) for k, y in outputs]
        return add_weighted(terms, repr(group.label), group.gates(0))

    def freeze(self, arch: Mapping[str, Any]) -> nn.Module:
        decision = self.group.decisions[0]
        return self.candidates[decision.position(arch[decision.label])]  # type: ignore[index]

    def drop_pruned(self) -> None:
        for k, alive in enumerate(self.group.alive[0]):
            if not alive:
                self.candidates[k] = Absent()


class MixedInput(Mixed):
    """Weighted sum (or mean) of inputs: y = sum_i w_i x_i."""

    def __init__(self, group: Group, n_chosen: int | None, reduction: Reduction) -> None:
        super().__init__()
        self.group = group
        self.n_chosen = n_chosen
        self.reduction: Reduction = reduction
        if self.n_chosen != 1 and self.reduction in ("concat", "none"):
            self.soft_refusal = (
                f"{group.label!r}: reduction={reduction!r} of a varying set has no fixed shape"
            )

    def forward(self, *inputs: Any) -> Any:
        group, active = self.group, self.group.active[0]
        tensors = as_inputs(inputs, len(group.columns), repr(group.label))
        if group.weights is None and active:
            if self.n_chosen == 1:
                return tensors[active[0]]
            return reduce_inputs([tensors[i] for i in active], self.reduction)
        if self.soft_refusal:
            raise SpaceError(f"{self.soft_refusal}; call supernet.select(arch).")
        terms = [(i, group.weighted(0, i, tensors[i])) for i in active]
        total = add_weighted(terms, repr(group.label), group.gates(0))
        if self.n_chosen == 1 or self.reduction == "sum" or group.weights is None:
            return total
        # The mean over chosen inputs: a mixture chooses sum(w) of them.
        count = sum_in_order([group.weights[0, i] for i in active])
        return tree_map_only(Tensor, lambda y: y / count, total)

    def freeze(self, arch: Mapping[str, Any]) -> nn.Module:
        return chosen_inputs(self.group.decisions[0], self.reduction, arch)


class MixedDepth(Mixed):
    """Weighted sum of the outputs after each possible depth: y = sum_d w_d x_d, x_0 the input."""

    def __init__(self, groups: Sequence[Group], depth: Value, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.groups = list(groups)
        self.depth = depth
        self.blocks = blocks

    def forward(self, x: Any) -> Any:
        weights = self._depth_weights()
        if len(weights) == 1 and None in weights.values():
            for block in self.blocks[: next(iter(weights))]:
                x = block(x)
            return x
        terms = []
        for depth in range(max(weights, default=0) + 1):
            if depth > 0:
                x = self.blocks[depth - 1](x)
            if depth in weights:
                terms.append(
                    (
                        f"depth {depth}",
                        tree_map_only(Tensor, functools.partial(operator.mul, weights[depth]), x),
                    )
                )
        gates = [gate for group in self.groups for gate in group.gates(0)]
        return add_weighted(terms, repr(str(self.depth)), gates)

    def _depth_weights(self) -> dict[int, Tensor | None]:
        """Return the weight of each depth that has one; a single selected depth has weight None."""
        selected = {g.label: g.selected for g in self.groups if g.is_selected}
        if len(selected) == len(self.groups):
            return {self.depth.evaluate(selected): None}
        weights: dict[int, Any] = {}
        for columns in itertools.product(*(group.active[0] for group in self.groups)):
            pairs = list(zip(self.groups, columns, strict=True))
            depth = self.depth.evaluate({group.label: group.columns[k] for group, k in pairs})
            factors = [g.weights[0, k] for g, k in pairs if g.weights is not None]
            weight = functools.reduce(operator.mul, factors)
            weights[depth] = weights[depth] + weight if depth in weights else weight
        return weights

    def freeze(self, arch: Mapping[str, Any]) -> nn.Module:
        return nn.Sequential(*self.blocks[: self.depth.evaluate(arch)])

    def drop_pruned(self) -> None:
        kept = [[c for c, alive in zip(g.columns, g.alive[0], strict=True) if alive] for g in self.groups]
        labels = [group.label for group in self.groups]
        depths = [self.depth.evaluate(dict(zip(labels, c, strict=True))) for c in itertools.product(*kept)]
        for index in range(max(depths), len(self.blocks)):
            self.blocks[index] = Absent()
