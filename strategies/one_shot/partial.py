"""Partial channels: cells whose operations see a part of the channels, while the others pass by.

Source: PC-DARTS, Xu et al. 2020, arXiv:1907.05737, section 3.2.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spacelang import Cell, ModelSpace, SpaceError, Supernet
from spacelang.language import FrozenCell, Further, Primitive
from spacelang.randomness import torch_generators_kept
from spacelang.supernet import Builder, Cache, Group, MixedCell, add_weighted


def partial_supernet(space: ModelSpace, partial: int) -> Supernet:
    """Return the supernet of a rebuilt `space` whose cells' operations have 1/`partial` of their channels.

    Raises:
        SpaceError: a candidate of a cell cannot be made with fewer channels; names it and its layer.
    """
    return Supernet(space.rebuild(), builder=PartialBuilder(partial) if partial > 1 else None)


def check_partial(space: ModelSpace, partial: int) -> None:
    """Raise the `SpaceError` that `partial_supernet` would; torch's generator is left alone."""
    cells = [module for module in space.modules() if isinstance(module, Cell) and partial > 1]
    with torch_generators_kept():
        for cell in cells:
            slimmed_edges(cell, partial)


class PartialBuilder(Builder):
    """Builds cells with partial channels."""

    def __init__(self, partial: int) -> None:
        super().__init__()
        self.partial = partial

    def mixed_cell(self, cell: Cell) -> nn.Module:
        """Relax a `Cell`."""
        edges = slimmed_edges(cell, self.partial)
        return PartialCell(self.cell_group(cell.topology), cell, edges, self.partial)


class PartialCell(MixedCell):
    """A cell whose edges mix candidates on the first C/K of C channels.

        edge(x) = b * shuffle([sum_k w_k f_k(x[:, :C/K]), bypass(x[:, C/K:])])

    with b the weight of the edge; a node sums both parts over its edges before it joins and shuffles
    them. The bypass is the identity, or a 2x2 max-pooling where the candidates have stride 2. An
    architecture frozen from it has partial channels too, its operations inside `PartialOperation`; retrain
    the architecture dict in a network of full channels.

    Args:
        group: Table of mixture weights, one row per edge.
        cell: Gives preprocessing, merging and postprocessing.
        edges: Candidates of each edge, made for C/K channels.
        partial: K.
    """

    def __init__(self, group: Group, cell: Cell, edges: nn.ModuleList, partial: int) -> None:
        super().__init__(group, cell.frame, edges)
        self.partial = partial

    def edge_terms(self, row: int, x: Any, cache: Cache, further: Further) -> list[tuple[object, Any]]:
        seen, rest = parted(x, self.partial)
        terms = super().edge_terms(row, seen, cache, further)
        if not terms:
            return []
        name = f"edge {self.group.rows[row]}"
        if self.group.weights is not None:  # else each slot is an operation with a bypass of its own
            terms = [(name, add_weighted(terms, f"{name} of cell {self.group.label!r}"))]
        size = terms[0][1].shape[2:]
        if size not in cache:  # edges that leave one node have it in common
            cache[size] = bypass(rest, size)
        rest = cache[size] if self.group.edges is None else self.group.edges[row] * cache[size]
        return [(name, (mixed, rest)) for name, mixed in terms]

    def summed(self, total: Any) -> Any:
        mixed, rest = total
        return joined(mixed, rest, self.partial)

    def zeros(self, row: int, column: int, x: Any, further: Further) -> Any:
        seen, rest = parted(x, self.partial)
        zeros = super().zeros(row, column, seen, further)
        return zeros, zeros.repeat(1, rest.shape[1] // seen.shape[1], 1, 1)

    def freeze(self, arch: Mapping[str, Any]) -> nn.Module:
        cell = super().freeze(arch)
        assert isinstance(cell, FrozenCell)
        for slots in cell.operations.children():
            for slot, operation in slots.named_children():
                slots.add_module(slot, PartialOperation(operation, self.partial))
        return cell


class PartialOperation(nn.Module):
    """An operation on the first C/K channels, joined with the others: (B, C, H, W) -> (B, C, H', W').

    Args:
        operation: (B, C/K, H, W) -> (B, C/K, H', W').
        partial: K.
    """

    def __init__(self, operation: nn.Module, partial: int) -> None:
        super().__init__()
        self.operation = operation
        self.partial = partial

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return all channels, shuffled; the operation also gets the further arguments."""
        seen, rest = parted(x, self.partial)
        y: Tensor = self.operation(seen, *args, **kwargs)
        return joined(y, bypass(rest, y.shape[2:]), self.partial)


def parted(x: Tensor, partial: int) -> tuple[Tensor, Tensor]:
    """Return the first C/K channels and the others.

    Raises:
        SpaceError: these are no feature maps, or K does not divide C.
    """
    if not isinstance(x, Tensor) or x.dim() != 4 or x.shape[1] % partial:
        given = tuple(x.shape) if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise SpaceError(
            f"partial channels need feature maps (B, C, H, W) with C a multiple of {partial}; a cell has "
            f"{given}."
        )
    seen = x.shape[1] // partial
    return x[:, :seen], x[:, seen:]


def bypass(rest: Tensor, size: torch.Size) -> Tensor:
    """Return the channels no operation sees, (B, C, H, W) -> (B, C, *size): as they are, or 2x2 max-pooled.

    Raises:
        SpaceError: neither has that size.
    """
    if rest.shape[2:] == size:
        return rest
    pooled = F.max_pool2d(rest, 2, ceil_mode=True)
    if pooled.shape[2:] != size:
        raise SpaceError(
            f"operations turn maps of {tuple(rest.shape[2:])} into {tuple(size)}; partial channels need "
            "stride 1 or 2."
        )
    return pooled


def joined(mixed: Tensor, rest: Tensor, groups: int) -> Tensor:
    """Concatenate and shuffle: (B, C/K, H, W) and (B, C - C/K, H, W) -> (B, C, H, W).

    Of the concatenation channel g * C/K + c becomes channel c * K + g.

    Raises:
        SpaceError: the first has not C/K channels.
    """
    if mixed.shape[1] * (groups - 1) != rest.shape[1]:
        raise SpaceError(
            f"operations turn {rest.shape[1] // (groups - 1)} channels into {mixed.shape[1]}; partial "
            "channels need as many as before."
        )
    return F.channel_shuffle(torch.cat([mixed, rest], dim=1), groups)


# -- candidates with fewer channels ----------------------------------------------------------------------


def slimmed_edges(cell: Cell, partial: int) -> nn.ModuleList:
    """Return the candidates of each edge of a cell with 1/`partial` of their channels.

    Raises:
        SpaceError: A candidate cannot be made with fewer channels, or nodes project what they read.
    """
    if cell.frame.projection is not None:
        raise SpaceError(
            f"cell {cell.label!r} has a projection, which reads all channels, so its operations cannot have "
            "a part of them. Give the strategy a number of partial channels of 1."
        )
    return nn.ModuleList(
        nn.ModuleList(
            _slimmed_candidate(candidate, partial, f"cell {cell.label!r}, candidate {name!r}")
            for name, candidate in zip(cell.topology.operations, edge.children(), strict=True)
        )
        for edge in cell.edges
    )


def _slimmed_candidate(candidate: nn.Module, partial: int, where: str) -> nn.Module:
    try:
        return slimmed(candidate, partial)
    except SpaceError as error:
        raise SpaceError(
            f"{where}: {error}\nGive the strategy a number of partial channels that divides the candidates' "
            "channels, 1 for none, or the module a method partial(k) that returns it for 1/k of its channels."
        ) from error


def slimmed(module: nn.Module, partial: int) -> nn.Module:
    """Return a copy of `module` with 1/`partial` of its channels, its weights newly drawn.

    A module may say how with a method `partial(k) -> nn.Module`; of others, convolutions and batch norms are
    made again, and a module without parameters and buffers is copied.

    Raises:
        SpaceError: names the layer that is none of these, or whose channels `partial` does not divide.
    """
    made: dict[int, nn.Module] = {}  # by identity: a layer that stands in two places stays one

    def visit(layer: nn.Module, path: str) -> None:
        if id(layer) in made:
            return
        try:
            own = _slimmed_layer(layer, partial)
        except SpaceError as error:
            name = type(layer).__name__ if list(layer.children()) else str(layer)
            raise SpaceError(f"its layer {path!r}, {name}, {error}" if path else f"{name} {error}") from None
        if own is not None:
            made[id(layer)] = own
            return
        for name, part in layer.named_children():
            visit(part, f"{path}.{name}" if path else name)

    visit(module, "")
    return copy.deepcopy(module, dict(made))


def _slimmed_layer(layer: nn.Module, partial: int) -> nn.Module | None:
    """Return the replacement of a layer; None where its parts are replaced one by one."""
    own = getattr(layer, "partial", None)
    if callable(own):
        slim: nn.Module = own(partial)
        return slim
    if isinstance(layer, Primitive):
        raise SpaceError("is a choice, and a choice inside a candidate has no partial channels.")
    if type(layer) is nn.Conv2d:
        return _slimmed_conv(layer, partial)
    if type(layer) is nn.BatchNorm2d:
        channels = _share(layer.num_features, partial)
        return nn.BatchNorm2d(
            channels, layer.eps, layer.momentum, layer.affine, track_running_stats=layer.track_running_stats
        )
    if any(True for _ in layer.parameters(recurse=False)) or any(True for _ in layer.buffers(recurse=False)):
        raise SpaceError(
            "has weights of its own, and only those of Conv2d and BatchNorm2d can be made again."
        )
    return None


def _slimmed_conv(conv: nn.Conv2d, partial: int) -> nn.Conv2d:
    inputs, outputs = _share(conv.in_channels, partial), _share(conv.out_channels, partial)
    groups = conv.groups // partial if conv.groups == conv.in_channels else conv.groups  # depthwise stays so
    if inputs % groups or outputs % groups:
        raise SpaceError(f"would have {inputs} and {outputs} channels in {groups} groups.")
    return nn.Conv2d(
        inputs,
        outputs,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        conv.dilation,  # type: ignore[arg-type]
        groups,
        conv.bias is not None,
        conv.padding_mode,
    )


def _share(channels: int, partial: int) -> int:
    if channels % partial:
        raise SpaceError(f"has {channels} channels, which {partial} does not divide.")
    return channels // partial


# -- from fewer partial channels to more -----------------------------------------------------------------


def widen(narrow: Supernet, wide: Supernet, generator: torch.Generator) -> dict[str, dict[int, Tensor]]:
    """Copy the weights and statistics of `narrow` to `wide`, a supernet of the same space with smaller K.

    Where a candidate has more channels than before, the new ones are copies of its old ones, drawn at random:
    of n old and m new channels, in every tensor of the candidate, channel i >= n is channel c(i). Layers that
    read them are not divided accordingly, so the function changes, as in the code of the authors of DrNAS
    (arXiv:2006.10355) and unlike Net2Wider.

    Returns:
        By name of a tensor that grew, for each dimension that did, the old index that every new one copies.
    """
    given = narrow.state_dict()
    for name, tensor in wide.state_dict().items():
        if given[name].shape == tensor.shape:
            tensor.copy_(given[name])
    copied: dict[str, dict[int, Tensor]] = {}
    for (_, old), (prefix, new) in zip(_candidates(narrow), _candidates(wide), strict=True):
        for name, sources in _widen_candidate(old, new, generator).items():
            copied[f"{prefix}.{name}"] = sources
    return copied


def _candidates(supernet: Supernet) -> list[tuple[str, nn.Module]]:
    """Return the candidates of every cell, by the name that they have in the supernet."""
    return [
        (f"{name}.edges.{row}.{column}", candidate)
        for name, cell in supernet.named_modules()
        if isinstance(cell, MixedCell)
        for row, edge in enumerate(cell.edges)
        for column, candidate in edge.named_children()
    ]


def _widen_candidate(
    narrow: nn.Module, wide: nn.Module, generator: torch.Generator
) -> dict[str, dict[int, Tensor]]:
    sources: dict[tuple[int, int], Tensor] = {}
    copied: dict[str, dict[int, Tensor]] = {}
    given = narrow.state_dict()
    for name, tensor in wide.state_dict().items():
        value = given[name]
        for dim, sizes in enumerate(zip(value.shape, tensor.shape, strict=True)):
            if sizes[0] != sizes[1]:
                if sizes not in sources:
                    sources[sizes] = channel_sources(*sizes, generator)
                value = value.index_select(dim, sources[sizes].to(value.device))
                copied.setdefault(name, {})[dim] = sources[sizes]
        tensor.copy_(value)
    return copied


def channel_sources(old: int, new: int, generator: torch.Generator) -> Tensor:
    """Return the old channel that each new one copies: all in order, then random ones, (new,)."""
    return torch.cat([torch.arange(old), torch.randint(old, (new - old,), generator=generator)])
