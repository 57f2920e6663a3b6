"""One source of a cell at work: its bundle, native or grouped, and what its edges share."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual

from .bundles import Bundle, Engine, RunningUpdate, Wiring
from .group import Group
from .plan import Planned, Pooled


@dataclass(frozen=True)
class Bundled:
    """Results of a bundle for the edges of its source.

    Args:
        sums: Sum of the bundle and of the shared results on each edge, by row, (N, C, H', W').
        apart: Columns of the active candidates that each edge computes itself, by row.
    """

    sums: Mapping[int, Tensor]
    apart: Mapping[int, tuple[int, ...]]


class BundleCall:
    """The candidates of one source that run in its bundle, and the shared ones, for one set of active ones.

    Args:
        candidates: Active candidates that leave the source, by row and column; some run in a bundle.
        silent: Row and column of those that run for the gradient of their weight alone.
        shape: Rows and columns of the cell's table.
        pools: Whether the bundle computes pools.
    """

    def __init__(
        self,
        candidates: Sequence[Planned],
        silent: Collection[tuple[int, int]],
        shape: tuple[int, int],
        pools: bool,
    ) -> None:
        chains = [planned for planned in candidates if planned.how == "bundle"]
        self.rows = sorted({planned.row for planned in candidates if planned.how != "apart"})
        self.blocks = [block for planned in chains for block in planned.blocks]
        self.apart: dict[int, tuple[int, ...]] = {
            row: tuple(p.column for p in candidates if p.row == row and p.how == "apart")
            for row in {p.row for p in candidates}
        }
        self.pools = _pools(candidates, silent) if pools else {}
        self.features = {
            (p.steps.key, (p.row, p.column) in silent): p.steps.beginning
            for p in candidates
            if p.how == "shared" and p.steps.key not in self.pools
        }
        self.norms = [block.norm for block in self.blocks] + [each.norm for each in self.pools.values()]
        self.wiring = self._wiring(chains, silent)
        places = self._places(candidates, chains, silent, shape)
        self._entries: dict[torch.device, Tensor] = {torch.device("cpu"): torch.tensor(places)}
        self._scales = {
            places.index(p.row * shape[1] + p.column): p.scale
            for p in candidates
            if p.scale is not None and p.how != "apart"
        }

    def _wiring(self, chains: Sequence[Planned], silent: Collection[tuple[int, int]]) -> Wiring:
        starts = [0]
        for chain in chains:
            starts.append(starts[-1] + len(chain.blocks))
        return Wiring(
            edges=len(self.rows),
            features=len(self.pools) + len(self.features),
            edge_of=tuple(self.rows.index(chain.row) for chain in chains),
            silent=tuple((chain.row, chain.column) in silent for chain in chains),
            starts=tuple(starts),
            shapes=tuple(block.shape for block in self.blocks),
            pools=tuple(pooled.shape for pooled in self.pools.values()),
            eps=tuple(norm.eps for norm in self.norms),
        )

    def _places(
        self,
        candidates: Sequence[Planned],
        chains: Sequence[Planned],
        silent: Collection[tuple[int, int]],
        shape: tuple[int, int],
    ) -> list[int]:
        """Return where the weight of each term stands in the table; behind its end where there is none."""
        rows, columns = shape
        shared = {
            (p.row, (p.steps.key, (p.row, p.column) in silent)): p.column
            for p in candidates
            if p.how == "shared"
        }
        places = [chain.row * columns + chain.column for chain in chains]
        for row in self.rows:
            for key in (*((key, False) for key in self.pools), *self.features):
                column = shared.get((row, key))
                places.append(rows * columns if column is None else row * columns + column)
        return places

    def __call__(
        self,
        x: Tensor,
        group: Group,
        cache: dict[Hashable, Any],
        engine: Engine,
        layout: torch.memory_format,
    ) -> Bundled | None:
        """Return what the edges of the source get; None if this feature map does not fit.

        Args:
            x: The source, (N, C, H, W).
            group: Gives the mixture.
            cache: Results that the edges of the source share.
            engine: Computes it.
            layout: Layout of the sums.
        """
        if not self._fits(x):
            return None
        given = [
            steps(x, cache).detach() if silent else steps(x, cache)
            for (_, silent), steps in self.features.items()
        ]
        size = (*x.shape[:2], *self.wiring.output_size(x))
        if any(feature.shape != size or feature.dtype != x.dtype for feature in given):
            return None
        weights = [w for b in self.blocks for w in (b.depthwise.weight, b.pointwise.weight)]
        if any(_has_tangent(tensor) for tensor in (x, *weights)):
            return None
        norms = self.norms
        running, of_batch = [t for norm in norms for t in _running(norm)], norms[0].training
        bundle = Bundle(
            self.wiring,
            of_batch,
            x,
            self._mix(group, x).to(weights[0].dtype),
            given,
            weights,
            () if of_batch else running,
        )
        found, statistics = engine.compute(bundle)
        if of_batch:
            counts = [norm.num_batches_tracked for norm in norms if norm.num_batches_tracked is not None]
            momenta = [norm.momentum for norm in norms if norm.momentum is not None]
            count = found[0].numel() // x.shape[1]
            engine.update_running(RunningUpdate(running, counts, momenta, statistics, count))
        sums = [each.contiguous(memory_format=layout) for each in found]
        return Bundled(dict(zip(self.rows, sums, strict=True)), self.apart)

    def _fits(self, x: Tensor) -> bool:
        """Return whether the bundle can compute with x, and with its batch norms as they are set."""
        weight, norms = self.blocks[0].pointwise.weight, self.norms
        if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
            return False
        if x.dim() != 4 or x.shape[1] != weight.shape[1]:
            return False
        training, (height, width) = norms[0].training, self.wiring.output_size(x)
        if training and len(x) * height * width < 2:
            return False
        return all(norm.training == training and norm.momentum is not None for norm in norms)

    def _mix(self, group: Group, x: Tensor) -> Tensor:
        """Return the weight of each term, (terms, 1), or (terms, N) if some term has its samples scaled."""
        weights = group.all_weights()
        flat = torch.cat([weights.reshape(-1), weights.new_zeros(1)])
        mix = flat.index_select(0, self._entries_on(flat.device))[:, None]
        drawn = {term: scale.sample_factors(x) for term, scale in self._scales.items()}
        factors = {term: each.flatten() for term, each in drawn.items() if each is not None}
        if not factors:
            return mix
        ones = mix.new_ones(len(x))
        return mix * torch.stack([factors.get(term, ones) for term in range(len(mix))])

    def _entries_on(self, device: torch.device) -> Tensor:
        """Return the places of the weights; a device gets them once, since the host waits for copies."""
        if device not in self._entries:
            self._entries[device] = self._entries[torch.device("cpu")].to(device)
        return self._entries[device]


def _pools(candidates: Sequence[Planned], silent: Collection[tuple[int, int]]) -> dict[Hashable, Pooled]:
    """Return the pools that a bundle computes, by the key of their steps.

    Those that also run outside of it are left there, so that running statistics move once.
    """
    outside: set[Hashable] = set()
    for planned in candidates:
        inside = planned.pooled is not None and (planned.row, planned.column) not in silent
        shared = planned.steps.shared[:-1] if inside else planned.steps.shared
        outside.update(key for key, _ in shared)
    return {p.steps.key: p.pooled for p in candidates if p.pooled and p.steps.key not in outside}


def _has_tangent(tensor: Tensor) -> bool:
    """Return whether a forward-mode derivative is being taken."""
    return unpack_dual(tensor).tangent is not None  # type: ignore[no-untyped-call]


def _running(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var
