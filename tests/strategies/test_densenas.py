"""DenseNAS: the authors' graph of blocks, routes and chained costs by hand, epochs that alternate."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spacelang import Experiment, ModelSpace, SpaceError, Supernet
from spacelang.costs import expected_cost
from spacelang.hub import DenseNAS as DenseSpace
from spacelang.hub.mobile import MOBILE_BLOCKS
from spacelang.hub.mobile.densenas import Routes
from spacelang.strategies import DenseNAS, Moment
from spacelang.strategies.one_shot.densenas import (
    BlockGraph,
    RouteCosts,
    best_routes,
    chained_cost,
    rescaled,
)
from spacelang.testing import check_strategy, toy_spaces
from spacelang.testing.toy_evaluators import Fit

FOLLOWERS = [
    [1], [2, 3, 4], [3, 4, 5, 6], [4, 5, 6, 7], [5, 6, 7], [6, 7, 8, 9], [7, 8, 9, 10], [8, 9, 10],
    [9, 10, 11, 12], [10, 11, 12, 13], [11, 12, 13], [12, 13, 14, 15], [13, 14, 15, 16], [14, 15, 16],
    [15, 16, 17], [16, 17], [17],
]  # fmt: skip


class Tiny(ModelSpace):
    """Two blocks behind a stem, on the images of the toy evaluator: 42 + 42 * 6 + 6 networks."""

    def __init__(self) -> None:
        super().__init__()
        blocks = ((0, 4, 6), (1, 4, 6, 1), (1, 8, 6))
        self.net = DenseSpace(blocks, 2, last_channels=8, in_channels=4, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(nn.functional.interpolate(x, scale_factor=2))  # type: ignore[no-any-return]


# -- the space


@pytest.mark.slow
def test_the_graph_of_the_authors() -> None:
    """17 blocks with 54 ways between them, 51 first layers and 39 others; 15,456 routes."""
    routes = Routes(MOBILE_BLOCKS, 4)
    assert [list(routes.followers(i)) for i in range(17)] == FOLLOWERS
    ways = {17: 1}
    networks = {17: 1}
    for i in reversed(range(17)):
        ways[i] = sum(ways[j] for j in FOLLOWERS[i])
        layers = 7 ** MOBILE_BLOCKS[i].layers
        networks[i] = layers * sum((6 if j < 17 else 1) * networks[j] for j in FOLLOWERS[i])
    assert ways[0] == 15_456
    space = DenseSpace([(b.stage, 1, b.size, b.layers) for b in MOBILE_BLOCKS], last_channels=1)
    labels = space.decision_space.by_label
    assert sum(len(labels[f"block{i}/next"].candidates) for i in range(17)) == 54
    assert sum("/head_" in label for label in labels) == 51
    assert sum("/layer_" in label for label in labels) == 39
    assert space.size() == networks[0]
    assert f"{networks[0]:.3e}" == "4.086e+45"


def test_blocks_that_do_not_connect_are_refused() -> None:
    with pytest.raises(SpaceError, match=r"Block\(stage=0, channels=8, size=8.*leads nowhere"):
        DenseSpace(((0, 8, 8), (2, 8, 8)))


# -- routes and costs by hand


def softmaxes() -> dict[int, dict[int, float]]:
    """Shares softmax(cos(i + 2k)) of the authors' graph, k the position among what may follow block i."""
    found = {}
    for i, following in enumerate(FOLLOWERS):
        weights = [math.exp(math.cos(i + 2 * k)) for k in range(len(following))]
        found[i] = {j: w / sum(weights) for j, w in zip(following, weights, strict=True)}
    return found


def numbers(shares: dict[int, dict[int, float]]) -> dict[int, dict[int, Tensor]]:
    return {i: {j: torch.tensor(p, dtype=torch.float64) for j, p in row.items()} for i, row in shares.items()}


def test_oracle_18a() -> None:
    shares = softmaxes()
    (route,) = best_routes(shares, 17, 1)
    assert route == [0, 1, 4, 6, 10, 12, 16, 17]
    product = math.prod(shares[i][j] for i, j in itertools.pairwise(route))
    assert product == pytest.approx(0.0188640851, abs=1e-10)
    layers = [2.0 * block.layers for block in MOBILE_BLOCKS]
    cost = chained_cost(numbers(shares), lambda i, j: 3.0 if j == 17 else 1.0, lambda i: layers[i])
    assert cost.item() + 5 + 0.5 == pytest.approx(53.9236854196, abs=1e-9)
    before, cost = (torch.tensor(x, dtype=torch.float64) for x in (1.7, 12.5))
    loss = DenseNAS().penalised(before, cost)
    assert loss.item() == pytest.approx(1.8399011350, abs=1e-10)


def test_a_smaller_chain_by_hand() -> None:
    """0 -> 1 (.6) or 2 (.4), 1 -> 2, 2 -> end; C_2 = 6, C_1 = 12, C_0 = 12."""
    shares = {0: {1: 0.6, 2: 0.4}, 1: {2: 1.0}, 2: {3: 1.0}}
    step = {(0, 1): 2.0, (0, 2): 3.0, (1, 2): 1.0, (2, 3): 2.0}
    cost = chained_cost(numbers(shares), lambda i, j: step[i, j], lambda i: (0.0, 5.0, 4.0)[i])
    assert cost.item() == pytest.approx(12)
    assert best_routes(shares, 3, 5) == [[0, 1, 2, 3], [0, 2, 3]]
    even = {0: {1: 0.5, 2: 0.5}, 1: {2: 1.0}, 2: {3: 1.0}}
    assert best_routes(even, 3, 1) == [[0, 1, 2, 3]]  # of equal ones the nearest block before


def test_oracle_of_the_shift() -> None:
    before, after = (torch.tensor([x], dtype=torch.float64) for x in ([0.2, -0.1, 1.0], [0.25, -0.15, 0.9]))
    moved = rescaled(before, after, torch.tensor([[True, True, False]]))
    assert (moved - after)[0].tolist() == pytest.approx([-0.0086600079, -0.0086600079, 0], abs=5e-11)


@pytest.fixture(scope="module")
def search() -> Any:
    """A search of the small space for few multiply-accumulates, with random logits in float64."""
    torch.manual_seed(0)
    strategy = DenseNAS(cost="params", warmup_epochs=1)
    search: Any = strategy.attach(strategy.supernet(Tiny()))
    generator = torch.Generator().manual_seed(0)
    for logits in search.parameters.logits.values():
        logits.data = torch.randn(logits.shape, dtype=torch.float64, generator=generator)
    search.moment = Moment(1, 3, torch.Generator().manual_seed(0))
    return search


@pytest.mark.slow
def test_chained_cost_is_the_mean_over_all_networks(search: Any) -> None:
    """Of tables of probabilities; of ones and zeros it is the cost of their network."""
    space = search.supernet.decision_space
    of = expected_cost(search.supernet, "params").of
    graph = BlockGraph.of(space)
    assert graph is not None
    costs = RouteCosts(graph, space, of)
    tables = search.probabilities()
    mean = 0.0
    rng = np.random.default_rng(0)
    for arch in space.grid():
        chance = math.prod(
            float(tables[label][0, space.by_label[label].candidates.index(value)])
            for label, value in arch.items()
        )
        mean += chance * of(arch)
    assert costs.expected(tables).item() == pytest.approx(mean, rel=1e-12)
    arch = space.sample(rng)
    ones = {
        label: torch.tensor([[float(c == arch.get(label)) for c in decision.candidates]])
        for label, decision in space.by_label.items()
    }
    assert costs.expected(ones).item() == of(arch)


# -- the search


def test_mixtures_of_both_steps(search: Any) -> None:
    """Shares into the last convolution pass a second softmax; one layer runs, or two."""
    weights, logits = search.mixtures("weights"), search.mixtures("logits")
    shares = search.probabilities()
    columns = {x: search.supernet.groups[x].columns.index(3) for x in ("block1/next", "block2/next")}
    into = torch.stack([shares[x][0, k] for x, k in columns.items()]).softmax(0)
    for mixtures in (weights, logits):
        found = torch.stack([mixtures[x].weights[0, k] for x, k in columns.items()])
        torch.testing.assert_close(found, into)
        torch.testing.assert_close(mixtures["block0/next"].weights, shares["block0/next"])
    for label in ("block1/head_0", "block1/layer_0"):
        assert (weights[label].weights == 1).sum() == 1
        runs = torch.tensor(logits[label].active)
        assert runs.sum() == 2
        assert logits[label].weights[runs].sum().item() == pytest.approx(1)
    exact = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).softmax(0)
    assert exact.tolist() == pytest.approx([0.2894331104, 0.3906938333, 0.3198730563], abs=1e-10)


def test_draws_and_shifts_are_those_of_layers_alone(search: Any) -> None:
    """Uniform in the warm-up and by softmax(alpha) after it; two alphas mix alone; shares are not shifted."""
    groups, logits = search.supernet.groups, search.parameters.logits
    head, way = "block1/head_0", "block1/next"
    sure = torch.full_like(logits[head], -50.0)
    sure[0, 4] = 50.0
    relaxation, generator = search.relaxation, torch.Generator().manual_seed(0)
    drawn = {
        epoch: {
            int(relaxation.mixture(groups[head], sure, Moment(epoch, 3, generator)).weights[0].argmax())
            for _ in range(60)
        }
        for epoch in (0, 1)
    }
    assert drawn == {0: set(range(6)), 1: {4}}
    search.mix("logits")
    runs = torch.zeros(1, 6, dtype=torch.bool)
    runs[0, list(groups[head].active[0])] = True
    assert runs.sum() == 2
    torch.testing.assert_close(groups[head].weights[runs], logits[head][runs].softmax(0), rtol=0, atol=1e-12)
    after = {
        x: logits[x].detach() + torch.arange(float(logits[x].numel())).reshape(logits[x].shape)
        for x in (head, way)
    }
    assert torch.equal(relaxation.settled(groups[way], logits[way].detach(), after[way]), after[way])
    settled = relaxation.settled(groups[head], logits[head].detach(), after[head])
    assert torch.equal(settled[~runs], after[head][~runs])  # as Adam left them
    torch.testing.assert_close(settled[runs].logsumexp(0), logits[head][runs].logsumexp(0))


def test_the_cost_moves_what_it_may(search: Any) -> None:
    """Its gradient reaches the shares and the two layers that run, and equals a finite difference."""
    search.mix("logits")
    cost = search.chained_cost()
    next_, head = (search.parameters.logits[x] for x in ("block1/next", "block1/head_0"))
    of_next, of_head = torch.autograd.grad(cost, [next_, head])
    assert (of_head[0] != 0).sum() == 2
    step = 1e-4
    with torch.no_grad():
        next_[0, 0] += step
    higher = search.chained_cost()
    with torch.no_grad():
        next_[0, 0] -= 2 * step
    lower = search.chained_cost()
    with torch.no_grad():
        next_[0, 0] += step
    assert ((higher - lower) / (2 * step)).item() == pytest.approx(of_next[0, 0].item(), rel=1e-5)


def test_it_derives_the_best_route(search: Any) -> None:
    supernet, tables = search.supernet, search.probabilities()
    found = search.derive(4)
    space = supernet.decision_space
    assert len({repr(space.canonical(arch)) for arch in found}) == 4
    best: dict[tuple[int, ...], float] = {}
    for arch in space.grid():
        nexts = {label: value for label, value in arch.items() if label.endswith("/next")}
        route = tuple(nexts.values())
        best[route] = math.prod(
            float(tables[x][0, space.by_label[x].candidates.index(v)]) for x, v in nexts.items()
        )
    chosen = space.canonical(found[0])
    assert tuple(v for x, v in chosen.items() if x.endswith("/next")) == max(best, key=lambda r: best[r])
    for label, value in chosen.items():
        if not label.endswith("/next"):
            assert space.by_label[label].candidates.index(value) == int(tables[label].argmax())


@pytest.mark.slow
def test_epochs_alternate(tmp_path: Path) -> None:
    """Three validation batches are three steps of the logits, before each epoch after the warm-up."""
    strategy = DenseNAS(warmup_epochs=1)
    experiment: Any = Experiment(Tiny(), Fit(3), strategy, directory=tmp_path / "run")
    experiment.run()
    search = experiment.search
    initial: Any = strategy.attach(strategy.supernet(Tiny()), seed=0)
    for label, logits in search.parameters.logits.items():
        assert torch.equal(search.history[label][0], initial.probabilities()[label])
        assert search.parameters.optimizer.state[logits]["step"] == 2 * 3


@pytest.mark.slow
def test_it_keeps_the_promises_of_a_strategy() -> None:
    check_strategy(DenseNAS(warmup_epochs=1), epochs=2)


def test_settings_and_spaces() -> None:
    (sentence,) = DenseNAS().unused_features(Supernet(toy_spaces()["Layers"]))
    assert "no decisions block{i}/next" in sentence
    with pytest.raises(SpaceError, match="DenseNAS steps the logits before each epoch"):
        DenseNAS(update_every=2)
    with pytest.raises(SpaceError, match="cost_base=1"):
        DenseNAS(cost_base=1)
