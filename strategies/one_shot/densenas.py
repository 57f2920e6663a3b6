"""DenseNAS: a route through densely connected blocks, and the layers on it."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from spacelang import SpaceError
from spacelang.costs import Metric, expected_cost
from spacelang.errors import require_all, require_number
from spacelang.language import Architecture, DecisionSpace
from spacelang.randomness import global_generators_kept, seed_global_generators
from spacelang.supernet import Group, Supernet

from ..framework import (
    Differentiable,
    GradientSearch,
    Mixture,
    Moment,
    Phase,
    Softmax,
    alive_mask,
    masked_softmax,
    top_architectures,
)
from .proxyless import sampled

_NEXT = re.compile(r"block(\d+)/next\Z")
_HEAD = re.compile(r"block(\d+)/head_(\d+)\Z")
_LAYER = re.compile(r"block(\d+)/layer_\d+\Z")


@dataclass(frozen=True, kw_only=True)
class DenseNAS(Differentiable):
    """Search the widths, the number and the layers of blocks, as the best route through many.

    Each block has logits beta for the blocks that may follow it; what enters a block is the sum over those
    before it, each times its share softmax(beta). The weights of the last convolution's inputs pass a second
    softmax, as in the authors' code. A layer has logits alpha: a step of the weights runs one candidate,
    drawn from softmax(alpha) (in the warm-up from all alike), and a step of the logits two, mixed by the
    softmax of their two alphas. After that the two are shifted so that the others keep their probabilities.
    As in the authors' code, Adam's moments and decay also move candidates that were not drawn.

    After the warm-up an epoch begins with a step of the logits on every validation batch; then it trains the
    weights on all training batches. The logits follow

        loss + cost_weight * log(E / unit) / log(cost_base),

    where E is the chained cost C_0 with C_i = layers_i + sum_j p_ij (head_ij + C_j). The result is the route
    of the highest product of shares (Viterbi), with the most probable candidate of each layer.

    The space is `spacelang.hub.DenseNAS`, or any whose decisions are named as there: `block{i}/next`, numbers
    of blocks; `block{j}/head_{i}`; `block{j}/layer_{k}`. In other spaces only the layers' rules apply.

    Args:
        cost: Cost of a network, "params", "flops" or a latency table; None for the loss alone.
        example_inputs: Example for FLOPs, a tensor or a tuple of arguments.
        unit: Divides E; 2e6 makes millions of multiply-accumulates of FLOPs.
        cost_weight: Factor of the cost.
        cost_base: Base of its logarithm.
        warmup_epochs: Epochs at the start that train weights alone.

    Source: DenseNAS, Fang et al. 2020, arXiv:1906.09607, sections 3.2 to 3.5, and the authors' code.
    """

    cost: Metric | None = None
    example_inputs: Tensor | tuple[Any, ...] = ()
    unit: float = 1.0
    cost_weight: float = 0.15
    cost_base: float = 15.0
    warmup_epochs: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        require_all(require_number, self, "unit", above=0)
        require_number("cost_weight", self.cost_weight, least=0)
        require_number("cost_base", self.cost_base, above=1)
        self.refuse_settings("steps the logits before each epoch", "update_every", "weights_first")

    @property
    def relaxation(self) -> DenseGates:
        return DenseGates(warmup=self.warmup_epochs)

    @property
    def samples_paths(self) -> bool:
        return True

    def unused_features(self, supernet: Supernet) -> list[str]:
        if BlockGraph.of(supernet.decision_space) is not None:
            return []
        return ["this space has no decisions block{i}/next, so no route is searched, and no cost is chained."]

    def objective(self, loss: Tensor, search: GradientSearch, phase: Phase) -> Tensor:
        if phase == "weights":
            return loss
        assert isinstance(search, DenseSearch)
        cost = search.chained_cost()
        return loss if cost is None else self.penalised(loss, cost)

    def penalised(self, loss: Tensor, cost: Tensor) -> Tensor:
        """Return loss + cost_weight * log(cost / unit) / log(cost_base)."""
        return loss + self.cost_weight * (cost / self.unit).log() / math.log(self.cost_base)

    def architectures(
        self, supernet: Supernet, probabilities: Mapping[str, Tensor], count: int
    ) -> list[Architecture]:
        """Return the most probable layers of the `count` best routes, then other layers of the best."""
        graph = BlockGraph.of(supernet.decision_space)
        if graph is None:
            return top_architectures(supernet, probabilities, count)
        shares = {
            i: dict(zip(graph.followers[i], probabilities[label][0].tolist(), strict=True))
            for i, label in graph.nexts.items()
        }
        routes = best_routes(shares, graph.output, count)
        found: list[Architecture] = []
        for number, route in [*((1, route) for route in routes), (count, routes[0])]:
            tables = {**probabilities, **graph.one_hot(route)}
            archs = top_architectures(supernet, tables, number)
            found += [arch for arch in archs if arch not in found]
        return found[:count]

    def make_search(self, supernet: Supernet, previous: Any, **settings: Any) -> DenseSearch:
        return DenseSearch(self, supernet, **settings)


@dataclass(frozen=True)
class DenseGates(Softmax):
    """Softmax over the blocks that may follow; of other choices one candidate runs, or two for the logits.

    Args:
        none: See `Softmax`.
        warmup: Epochs in which the one candidate is drawn from all alike.
    """

    none: bool = False
    warmup: int = 0

    def mixture(self, group: Group, logits: Tensor, moment: Moment | None = None) -> Mixture:
        assert moment is not None
        if not _draws(group):
            return super().mixture(group, logits, moment)
        alive = alive_mask(group, logits)
        if moment.phase == "logits":
            runs = sampled(masked_softmax(logits, alive), 2, moment.generator)
            return Mixture(masked_softmax(logits, runs), runs.tolist())
        known = torch.zeros_like(logits) if moment.epoch < self.warmup else logits
        runs = sampled(masked_softmax(known, alive), 1, moment.generator)
        return Mixture(runs.to(logits.dtype), runs.tolist())

    def settled(self, group: Group, before: Tensor, after: Tensor) -> Tensor:
        """Shift the candidates that ran so that the others keep their share of the probability."""
        if not _draws(group):
            return after
        ran = torch.zeros_like(before, dtype=torch.bool)
        for row, columns in enumerate(group.active):
            ran[row, list(columns)] = True
        return rescaled(before, after, ran)


def _draws(group: Group) -> bool:
    """Return whether one candidate of each row is drawn."""
    return not group.is_subset and _NEXT.match(group.label) is None


def rescaled(before: Tensor, after: Tensor, ran: Tensor) -> Tensor:
    """Return logits in which those that ran are shifted by ln( sum exp(before) / sum exp(after) ) of theirs.

    Args:
        before, after: Logits before and after a step, (rows, columns).
        ran: Which of them ran, boolean.
    """
    old, new = (x.masked_fill(~ran, -torch.inf).logsumexp(dim=1, keepdim=True) for x in (before, after))
    return torch.where(ran, after + (old - new), after)


@dataclass(frozen=True)
class BlockGraph:
    """Blocks, which may follow which, and the labels of their layers.

    Args:
        followers: Numbers of what may follow each block; the highest stands for the end.
        heads: Label of the first layer of a block after another, by the pair of the other and it.
        layers: Labels of the further layers of each block.
    """

    followers: Mapping[int, tuple[int, ...]]
    heads: Mapping[tuple[int, int], str]
    layers: Mapping[int, Sequence[str]]

    @classmethod
    def of(cls, space: DecisionSpace) -> BlockGraph | None:
        """Return the graph that a space decides on; None if there is none."""
        followers, heads = dict[int, tuple[int, ...]](), dict[tuple[int, int], str]()
        layers: dict[int, list[str]] = {}
        for label, decision in space.by_label.items():
            if found := _NEXT.match(label):
                followers[int(found[1])] = tuple(decision.candidates)
            elif found := _HEAD.match(label):
                heads[int(found[2]), int(found[1])] = label
            elif found := _LAYER.match(label):
                layers.setdefault(int(found[1]), []).append(label)
        return cls(dict(sorted(followers.items())), heads, layers) if followers else None

    @cached_property
    def nexts(self) -> dict[int, str]:
        """Label of the decision on what follows each block."""
        return {i: f"block{i}/next" for i in self.followers}

    @property
    def output(self) -> int:
        """Number of the end."""
        return max(j for following in self.followers.values() for j in following)

    def one_hot(self, route: Sequence[int]) -> dict[str, Tensor]:
        """Return tables of the decisions on what follows, ones on a route and zeros elsewhere."""
        after = dict(itertools.pairwise(route))
        found = {}
        for i, label in self.nexts.items():
            chosen = after.get(i, self.followers[i][0])
            found[label] = torch.tensor([[float(j == chosen) for j in self.followers[i]]])
        return found

    def into_output(self) -> dict[int, int]:
        """Return the blocks that the end may follow, each with its column."""
        return {i: js.index(self.output) for i, js in self.followers.items() if self.output in js}


def best_routes(shares: Mapping[int, Mapping[int, float]], output: int, count: int) -> list[list[int]]:
    """Return the `count` routes from 0 to `output` with the highest products of shares, best first.

    Of equal routes into a block, that from the nearest block before it comes first.

    Args:
        shares: Share of what follows each block.
        output: Number of the end.
        count: Number of routes.
    """
    best: dict[int, list[tuple[float, list[int]]]] = {0: [(1.0, [0])]}
    for j in range(1, output + 1):
        entering = [
            (product * shares[i][j], [*route, j])
            for i in reversed(range(j))
            if j in shares.get(i, {})
            for product, route in best.get(i, ())
        ]
        best[j] = sorted(entering, key=lambda pair: -pair[0])[:count]
    return [route for _, route in best[output]]


def chained_cost(
    shares: Mapping[int, Mapping[int, Tensor]],
    step: Callable[[int, int], Tensor | float],
    inside: Callable[[int], Tensor | float],
) -> Tensor:
    """Return C_0, where C_i = inside_i + sum_j p_ij (step_ij + C_j).

    Args:
        shares: Shares p_ij of what follows each block, a number each.
        step: Cost of what leads from a block to another.
        inside: Cost of a block apart from what leads to it.
    """
    cost: dict[int, Any] = {}
    for i in sorted(shares, reverse=True):
        following = [share * (step(i, j) + cost.get(j, 0.0)) for j, share in shares[i].items()]
        cost[i] = inside(i) + torch.stack(following).sum()
    result: Tensor = cost[0]
    return result


class RouteCosts:
    """Costs of candidates and of the ways between blocks, which add up to the cost of every network.

    The first candidate of each layer costs nothing here; the way from block i to j costs what a detour costs:
    a network that goes a fixed way to i, on to j, and a fixed way to the end, less one that goes a fixed way
    from i. These differences add up along any route.

    Args:
        graph: The blocks.
        space: Decisions of the space.
        of: Function that returns the cost of an architecture.
    """

    def __init__(self, graph: BlockGraph, space: DecisionSpace, of: Callable[[Architecture], float]) -> None:
        self.graph = graph
        self._space = space
        self._of = of
        self._first = {label: decision.candidates[0] for label, decision in space.by_label.items()}
        onwards: dict[int, list[int]] = {graph.output: [graph.output]}
        for i in sorted(graph.followers, reverse=True):
            onwards[i] = [i, *onwards[graph.followers[i][0]]]
        before: dict[int, list[int]] = {0: [0]}
        for i, following in graph.followers.items():
            for j in following:
                before.setdefault(j, [*before[i], j])
        self.steps, self.candidates = {}, {}
        for i, following in graph.followers.items():
            straight = self._cost([*before[i], *onwards[i][1:]]) if i else 0.0
            for j in following:
                route = [*before[i], *onwards[j]]
                self.steps[i, j] = self._cost(route) - straight
                if (i, j) in graph.heads:
                    self.candidates[graph.heads[i, j]] = self._differences(route, graph.heads[i, j])
        for j, labels in graph.layers.items():
            for label in labels:
                self.candidates[label] = self._differences([*before[j], *onwards[j][1:]], label)

    def _cost(self, route: Sequence[int], **chosen: Any) -> float:
        following = {f"block{i}/next": j for i, j in itertools.pairwise(route)}
        return self._of(self._space.canonical({**self._first, **following, **chosen}))

    def _differences(self, route: Sequence[int], label: str) -> Tensor:
        base = self._cost(route)
        candidates = self._space.by_label[label].candidates
        costs = [self._cost(route, **{label: candidate}) - base for candidate in candidates]
        return torch.tensor(costs, dtype=torch.float64)

    def expected(self, tables: Mapping[str, Tensor]) -> Tensor:
        """Return C_0, from tables of probabilities by label."""

        def layer(label: str) -> Tensor:
            table = tables[label][0]
            return (table * self.candidates[label].to(table)).sum()

        graph = self.graph
        shares = {
            i: dict(zip(following, tables[graph.nexts[i]][0], strict=True))
            for i, following in graph.followers.items()
        }
        return chained_cost(
            shares,
            lambda i, j: self.steps[i, j] + (layer(graph.heads[i, j]) if (i, j) in graph.heads else 0.0),
            lambda i: sum((layer(label) for label in graph.layers.get(i, ())), start=torch.zeros(())),
        )


class DenseSearch(GradientSearch):
    """A search whose logits step over all validation batches before each epoch of the weights."""

    strategy: DenseNAS

    def __init__(self, strategy: DenseNAS, supernet: Supernet, **settings: Any) -> None:
        super().__init__(strategy, supernet, **settings)
        self.graph = BlockGraph.of(supernet.decision_space)
        self._costs: RouteCosts | None = None
        if self.graph is not None and strategy.cost is not None:
            cost = expected_cost(supernet, strategy.cost, strategy.example_inputs)
            self._costs = RouteCosts(self.graph, supernet.decision_space, cost.of)

    def chained_cost(self) -> Tensor | None:
        """Return C_0 under the present shares and mixtures, differentiable; None where no cost is set."""
        if self._costs is None:
            return None
        groups = self.supernet.groups
        tables = {label: group.weights for label, group in groups.items() if group.weights is not None}
        assert self.graph is not None
        for label in self.graph.nexts.values():  # the last convolution's weights are not shares
            tables[label] = self.relaxation.distribution(groups[label], self.parameters.logits[label])
        return self._costs.expected(tables)

    def mixtures(self, phase: Phase) -> dict[str, Mixture]:
        """Return mixtures of the present logits; the last convolution's inputs pass a second softmax."""
        made = super().mixtures(phase)
        ends = {} if self.graph is None else self.graph.into_output()
        if len(ends) > 1:
            assert self.graph is not None
            tables = {i: made[self.graph.nexts[i]].weights for i in ends}
            again = torch.stack([tables[i][0, column] for i, column in ends.items()]).softmax(dim=0)
            for weight, (i, column) in zip(again, ends.items(), strict=True):
                is_end = torch.arange(tables[i].shape[1], device=weight.device) == column
                made[self.graph.nexts[i]] = Mixture(torch.where(is_end, weight, tables[i]))
        return made

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Step the logits over all validation batches, once the warm-up has ended."""
        super().on_train_epoch_start(trainer, pl_module)
        if not self.strategy.moves_logits(trainer.current_epoch):
            return
        # Whether the order of training batches was drawn before depends on whether the search was resumed.
        seed = int(torch.randint(2**62, (), generator=self.moment.generator))
        with global_generators_kept():
            seed_global_generators(seed, trainer.global_rank)
            for index in range(self._steps(trainer.accumulate_grad_batches)):
                self.step_logits(None, index)

    def _steps(self, accumulated: int) -> int:
        loader: Any = self.training.validation_loader()
        try:
            return max(1, len(loader) // accumulated)
        except TypeError:
            raise SpaceError(
                f"DenseNAS steps over all validation batches, and this {type(loader).__name__} does not say "
                "how many it has; give the loader a length."
            ) from None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the mixture of the weights' step."""
        self.mix_weights(batch, batch_idx)
