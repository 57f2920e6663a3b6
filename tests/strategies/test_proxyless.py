"""ProxylessNAS: oracle of section 9, and that what was not sampled neither runs nor moves."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn

from spacelang import InputChoice, LayerChoice, ModelSpace, Repeat, SpaceError, Supernet
from spacelang.strategies import Moment, ProxylessNAS
from spacelang.strategies.framework import Phase
from spacelang.strategies.one_shot.proxyless import BinaryGates, sampled

from ..toys.search_script import make
from .test_search import loader, quiet_trainer

GRADIENTS = (1.5, -0.5, 0.25)
ALPHA = (0.2, -0.1, 0.4)


def moment(phase: Phase = "logits", seed: int = 0) -> Moment:
    return Moment(0, 1, torch.Generator().manual_seed(seed), phase)


class Times(nn.Module):
    """Multiply by a learned factor; count the calls."""

    def __init__(self, factor: float, calls: Counter[float]) -> None:
        super().__init__()
        self.name = factor
        self.calls = calls
        self.factor = nn.Parameter(torch.tensor(factor, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        self.calls[self.name] += 1
        return self.factor * x


class Factors(ModelSpace):
    """One choice among factors; of input 1 the output has the gradient `factors` in the gates."""

    def __init__(self, factors: Sequence[float] = GRADIENTS) -> None:
        super().__init__()
        self.calls: Counter[float] = Counter()
        self.layer = LayerChoice([Times(f, self.calls) for f in factors], label="layer")

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def step(supernet: Supernet, relaxation: BinaryGates, logits: Tensor, now: Moment) -> Tensor:
    """Gradient of the output for input 1."""
    mixture = relaxation.mixture(supernet.groups["layer"], logits, now)
    assert mixture.active is not None
    supernet.set_mixture({"layer": mixture.weights}, {"layer": mixture.active})
    loss = supernet(torch.ones((), dtype=torch.float64))
    assert loss.item() in GRADIENTS  # one candidate with weight exactly one
    (gradient,) = torch.autograd.grad(loss, logits)
    return gradient


# -- the paper's numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_gradient_oracle(seed: int) -> None:
    supernet = Supernet(Factors())
    logits = torch.tensor([ALPHA], dtype=torch.float64, requires_grad=True)
    relaxation = ProxylessNAS().relaxation
    gradient = step(supernet, relaxation, logits, moment(seed=seed))
    assert gradient[0].tolist() == pytest.approx([0.34284610, -0.24619092, -0.09665518], abs=5e-9)
    assert set(supernet.network.calls) == set(GRADIENTS)
    probabilities = relaxation.probabilities(supernet.groups["layer"], logits)
    assert probabilities[0].tolist() == pytest.approx([0.33758454, 0.25008878, 0.41232669], abs=5e-9)


def test_two_path_oracle() -> None:
    supernet = Supernet(Factors())
    group = supernet.groups["layer"]
    logits = torch.tensor([ALPHA], dtype=torch.float64, requires_grad=True)
    relaxation = ProxylessNAS(gates="two").relaxation
    for seed in range(100):  # until candidates 0 and 2 are sampled
        supernet.network.calls.clear()
        gradient = step(supernet, relaxation, logits, moment(seed=seed))
        assert len(supernet.network.calls) == len(group.active[0]) == 2
        if group.active[0] == (0, 2):
            break
    assert gradient[0].tolist() == pytest.approx([0.30939572, 0, -0.30939572], abs=5e-9)
    before = logits.detach()
    after = relaxation.settled(group, before, before - gradient)  # SGD with learning rate 1
    assert after[0].tolist() == pytest.approx([-0.18596508, -0.1, 0.63282635], abs=5e-9)
    assert after.softmax(1)[0].tolist() == pytest.approx([0.22948803, 0.25008878, 0.52042319], abs=5e-9)


def test_a_pair_passes_on_the_gradient_of_its_own_probabilities() -> None:
    """An expected cost sum p F moves only the pair: by q_i (F_i - q F) with q renormalised over the two."""
    supernet = Supernet(Factors())
    group = supernet.groups["layer"]
    logits = torch.tensor([ALPHA], dtype=torch.float64, requires_grad=True)
    relaxation = ProxylessNAS(gates="two").relaxation
    costs = torch.tensor([[3.0, 5.0, 7.0]], dtype=torch.float64)
    group.mix(torch.zeros(1, 3), [[True, False, True]])
    table = relaxation.movable(group, logits)
    assert torch.equal(table, relaxation.probabilities(group, logits))
    (gradient,) = torch.autograd.grad((costs * table).sum(), logits)
    q = 1 / (1 + math.exp(-0.2))  # of candidate 2 against candidate 0
    assert gradient[0].tolist() == pytest.approx([-4 * q * (1 - q), 0, 4 * q * (1 - q)])


def test_a_candidate_with_weight_zero_keeps_nothing_for_its_backward_pass() -> None:
    """The gradient is that of a mixture which does not say so; memory is that of one candidate."""

    class Deep(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            deep = [nn.Sequential(*(nn.Sigmoid() for _ in range(n))) for n in (1, 2, 3)]
            self.layer = LayerChoice(deep, label="layer")
            self.inner = LayerChoice([nn.Identity(), nn.Tanh()], label="inner")

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.inner(x)).square().sum()

    supernet = Supernet(Deep())
    logits = {label: torch.zeros(group.shape, requires_grad=True) for label, group in supernet.groups.items()}
    now, relaxation = moment(), ProxylessNAS().relaxation
    made = {label: relaxation.mixture(supernet.groups[label], p, now) for label, p in logits.items()}
    gradients, kept = [], []
    for silent in ({}, {label: mixture.silent for label, mixture in made.items()}):
        supernet.set_mixture({label: m.weights for label, m in made.items()}, silent=silent)
        loss = supernet(torch.linspace(-1, 1, 5))
        kept.append(len({node for node in nodes(loss.grad_fn) if node.name() == "SigmoidBackward0"}))
        gradients.append(torch.autograd.grad(loss, list(logits.values()), retain_graph=True))
    assert kept == [1 + 2 + 3, 1 + int(made["layer"].weights.argmax())]
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)
        assert a.any()


def nodes(node: Any) -> Iterator[Any]:
    """The graph of a backward pass; nodes met more than once come more than once."""
    if node is not None:
        yield node
        for following, _ in node.next_functions:
            yield from nodes(following)


def test_the_authors_settings() -> None:
    strategy = ProxylessNAS()
    assert (strategy.warmup_epochs, strategy.update_every) == (40, 5)
    assert (strategy.learning_rate, strategy.betas, strategy.weight_decay) == (1e-3, (0.0, 0.999), 0.0)


# -- sampling --------------------------------------------------------------------------------------------


def test_pairs_are_drawn_without_replacement() -> None:
    """20,000 draws; P(i and j) = p_i p_j (1 / (1 - p_i) + 1 / (1 - p_j)); chi-square (2)."""
    p = torch.tensor([0.5, 0.3, 0.2])
    drawn = sampled(p.expand(20_000, 3), 2, torch.Generator().manual_seed(0))
    assert drawn.sum(1).eq(2).all()
    counts = (~drawn).sum(0)  # by the candidate left out
    i, j = torch.tensor([1, 0, 0]), torch.tensor([2, 2, 1])
    expected = p[i] * p[j] * (1 / (1 - p[i]) + 1 / (1 - p[j])) * 20_000
    assert float(((counts - expected) ** 2 / expected).sum()) < 13.8  # 0.999 quantile


def test_impossible_candidates_are_not_drawn() -> None:
    p = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    drawn = sampled(p, 2, torch.Generator().manual_seed(0))
    assert drawn.tolist() == [[False, True, False], [False] * 3]


@pytest.mark.parametrize("gates", ["full", "two"])
def test_pruned_candidates_are_left_alone(gates: Any) -> None:
    supernet = Supernet(Factors())
    supernet.prune({"layer": [[True, False, True]]})
    logits = torch.zeros(1, 3)
    relaxation = ProxylessNAS(gates=gates).relaxation
    for seed in range(20):
        for phase in ("logits", "weights"):
            mixture = relaxation.mixture(supernet.groups["layer"], logits, moment(phase, seed))
            assert mixture.weights[0, 1] == 0
            assert mixture.active is not None
            assert not mixture.active[0][1]


class Sets(ModelSpace):
    """Two of three inputs, and any set of two."""

    def __init__(self) -> None:
        super().__init__()
        self.two = InputChoice(3, 2, label="two")
        self.any = InputChoice(2, None, "mean", label="any")

    def forward(self, x: Tensor) -> Tensor:
        return self.two([x, 2 * x, 4 * x]) + self.any([8 * x, 16 * x])


@pytest.mark.parametrize("gates", ["full", "two"])
@pytest.mark.parametrize("phase", ["logits", "weights"])
def test_sets_of_inputs(gates: Any, phase: Phase) -> None:
    supernet = Supernet(Sets())
    relaxation = ProxylessNAS(gates=gates).relaxation
    logits = {label: torch.zeros(group.shape) for label, group in supernet.groups.items()}
    logits["any"] -= 1.0
    now = moment(phase)
    seen: Counter[float] = Counter()
    for _ in range(200):
        made = {x: relaxation.mixture(group, logits[x], now) for x, group in supernet.groups.items()}
        supernet.set_mixture({x: m.weights for x, m in made.items()}, {x: m.active for x, m in made.items()})
        seen[supernet(torch.ones(())).item()] += 1
    assert set(seen) == {two + mean for two in (3, 5, 6) for mean in (8, 16, 12)}


def test_only_the_blocks_of_the_sampled_depth_run() -> None:
    class Deep(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.calls: Counter[float] = Counter()
            self.blocks = Repeat(lambda i: Times(i + 2.0, self.calls), (0, 3), label="depth")

        def forward(self, x: Tensor) -> Tensor:
            return self.blocks(x)

    supernet = Supernet(Deep())
    relaxation, now = ProxylessNAS().relaxation, moment("weights")
    seen = set()
    for _ in range(30):
        supernet.network.calls.clear()
        mixture = relaxation.mixture(supernet.groups["depth"], torch.zeros(1, 4), now)
        supernet.set_mixture({"depth": mixture.weights}, {"depth": mixture.active})
        product = supernet(torch.ones((), dtype=torch.float64)).item()
        assert {1: 0, 2: 1, 6: 2, 24: 3}[product] == len(supernet.network.calls)
        seen.add(product)
    assert seen == {1, 2, 6, 24}


# -- whole searches --------------------------------------------------------------------------------------


class Momentum(pl.LightningModule):
    """Squared error; an optimiser that moves every weight it has a gradient of, and more if it is let."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.mse_loss(self.model(batch[0].double()), batch[1].double())

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Lightning offers no validation batches without it."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1)


class Watch(pl.Callback):
    """After every training batch: which weights and logits moved, and how often each candidate ran."""

    def __init__(self, search: Any) -> None:
        self.search = search
        self.seen: list[tuple[list[bool], list[bool], int]] = []
        self.tables = [search.probabilities()["layer"]]

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.before = self._state()
        self.search.supernet.network.calls.clear()

    def on_train_batch_end(self, *args: Any) -> None:
        weights, logits = ((a != b).tolist() for a, b in zip(self._state(), self.before, strict=True))
        self.seen.append((weights, logits, self.search.supernet.network.calls.total()))
        self.tables.append(self.search.probabilities()["layer"])

    def _state(self) -> tuple[Tensor, Tensor]:
        factors = [c.factor.detach().clone() for c in self.search.supernet.network.layer.candidates]
        return torch.stack(factors), self.search.parameters.logits["layer"][0].detach().clone()


def watched(tmp_path: Path, strategy: ProxylessNAS) -> Watch:
    supernet = Supernet(Factors((0.5, 1.0, 1.5, 2.0)))
    search = strategy.attach(supernet, seed=0)
    watch = Watch(search)
    trainer = quiet_trainer(tmp_path, search, watch, max_epochs=2)
    trainer.fit(Momentum(supernet), loader([1.0] * 20, 3.0), loader([2.0], 5.0))
    return watch


@pytest.mark.parametrize("gates", ["full", "two"])
def test_each_step_moves_what_was_sampled_alone(tmp_path: Path, gates: Any) -> None:
    """Neither momentum nor weight decay moves a candidate's weight in a step it was not sampled for."""
    strategy = ProxylessNAS(gates=gates, warmup_epochs=1, update_every=4, init_scale=1.0, learning_rate=0.3)
    watch = watched(tmp_path, strategy)
    moved = [weights for weights, _, _ in watch.seen]
    assert all(sum(weights) == 1 for weights in moved)
    assert len({tuple(weights) for weights in moved}) > 1
    asked = 2 if gates == "two" else 4
    for step, (_, logits, calls) in enumerate(watch.seen):
        stepped = step >= 20 and step % 4 == 3
        assert sum(logits) == (asked if stepped else 0)
        assert calls == 1 + (asked if stepped else 0)
        if stepped and gates == "two":
            others = ~torch.tensor(logits)
            was, now = watch.tables[step][0, others], watch.tables[step + 1][0, others]
            assert torch.allclose(was, now, rtol=1e-6)


def test_the_result_is_the_most_probable_candidate_and_no_draw(tmp_path: Path) -> None:
    watch = watched(tmp_path, ProxylessNAS(warmup_epochs=0, update_every=1, learning_rate=0.1))
    best = int(watch.tables[-1].argmax())
    assert all(watch.search.derive() == [{"layer": best}] for _ in range(5))


def test_a_warm_up_without_end_is_named(tmp_path: Path) -> None:
    with pytest.warns(
        UserWarning, match=r"ProxylessNAS\(warmup_epochs=40\) .* 2 epochs, so nothing is searched"
    ):
        watched(tmp_path, ProxylessNAS())


@pytest.mark.slow
@pytest.mark.parametrize("gates", ["full", "two"])
def test_a_search_of_cells_runs_one_operation_per_edge(tmp_path: Path, gates: Any) -> None:
    strategy = ProxylessNAS(gates=gates, learning_rate=0.1, warmup_epochs=0, update_every=1)
    experiment = make(tmp_path / "run", epochs=1, method=strategy)
    experiment.run()
    for group in experiment.supernet.groups.values():
        assert all(len(active) == 1 for active in group.active)
        assert set(group.weights.unique().tolist()) == {0.0, 1.0}
    experiment.space.validate(experiment.best)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gates": "three"}, "gates='three'"),
        ({"gates": "two", "betas": (0.5, 0.999)}, r"betas=\(0\.5"),
        ({"gates": "two", "weight_decay": 0.1}, r"weight_decay=0\.1"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        ProxylessNAS(**settings)
    ProxylessNAS(betas=(0.5, 0.999), weight_decay=0.1)  # all logits move anyway
