"""Gumbel relaxations: schedule, oracle of section 6, and that only what is sampled runs."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from spacelang import LayerChoice, ModelSpace, SpaceError, Supernet
from spacelang.strategies import GDAS, GumbelDARTS, Moment, top_architectures
from spacelang.strategies.framework import annealed
from spacelang.strategies.one_shot import gumbel as module
from spacelang.testing import toy_spaces

from ..toys.search_script import make
from .test_derivation import OneCell, oracle_logits, probabilities, slots_of


def moment(epoch: int = 0, epochs: int = 2, seed: int = 0) -> Moment:
    return Moment(epoch, epochs, torch.Generator().manual_seed(seed))


def test_the_temperature_reaches_its_end() -> None:
    taus = [annealed(10, 0.1, epoch, 250) for epoch in (0, 1, 124, 249)]
    assert taus == pytest.approx([10, 9.9602410, 5.0698795, 0.1], abs=5e-8)
    assert annealed(1.0, 0.03, 0, 1) == 1.0


class Four(ModelSpace):
    """Four candidates that multiply by 1, 2, 3, 4."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[int] = Counter()
        self.layer = LayerChoice([Times(k, self.calls) for k in (1, 2, 3, 4)], label="layer")

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Times(nn.Module):
    def __init__(self, factor: int, calls: Counter[int]) -> None:
        super().__init__()
        self.factor = factor
        self.calls = calls

    def forward(self, x: Tensor) -> Tensor:
        self.calls[self.factor] += 1
        return self.factor * x


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        ("straight_through", [-0.19316284, -0.05435585, 0.05202538, 0.19549331]),
        ("sampled", [-0.09164137, 0.21696483, -0.05029385, -0.07502961]),
        ("gates", [-0.04582069, 0.10848242, -0.02514693, -0.03751481]),
    ],
)
def test_gradient_oracle(estimator: str, expected: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """alpha = (.5, -.2, .1, 0), G = (.3, 1.2, -.5, .4), tau = 2, L = sum_k h_k o_k with o = (1, 2, 3, 4)."""
    noise = torch.tensor([[0.3, 1.2, -0.5, 0.4]], dtype=torch.float64)
    monkeypatch.setattr(module, "gumbel", lambda shape, generator: noise)
    supernet = Supernet(Four())
    logits = torch.tensor([[0.5, -0.2, 0.1, 0]], dtype=torch.float64, requires_grad=True)
    relaxation = GDAS(temperature=(2, 2), estimator=estimator).relaxation  # type: ignore[arg-type]
    mixture = relaxation.mixture(supernet.groups["layer"], logits, moment())
    active = {"layer": mixture.active} if mixture.active else None
    supernet.set_mixture({"layer": mixture.weights}, active, adds_gates=mixture.adds_gates)
    loss = supernet(torch.ones((), dtype=torch.float64))
    assert loss.item() == pytest.approx(2)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[0].tolist() == pytest.approx(expected, abs=5e-9)
    executed = {factor for factor, count in supernet.network.calls.items() if count}
    assert executed == ({1, 2, 3, 4} if estimator == "straight_through" else {2})


@pytest.mark.slow
def test_a_sample_is_gumbel_max() -> None:
    """One-hot samples follow the softmax: 20,000 draws, chi-square with three degrees of freedom."""
    supernet = Supernet(Four())
    logits = torch.tensor([[0.5, -0.2, 0.1, 0.0]])
    now = moment(seed=7)
    relaxation = GDAS().relaxation
    group = supernet.groups["layer"]
    counts = sum(relaxation.mixture(group, logits, now).weights[0] for _ in range(20_000))
    expected = logits.softmax(dim=1)[0] * 20_000
    assert float(((counts - expected) ** 2 / expected).sum()) < 16.27  # 0.999 quantile


def test_soft_samples_are_on_the_simplex_and_repeat_with_the_generator() -> None:
    supernet = Supernet(Four())
    relaxation = GumbelDARTS().relaxation
    logits = torch.zeros(1, 4)
    a, b, c = (
        relaxation.mixture(supernet.groups["layer"], logits, moment(seed=s)).weights for s in (1, 1, 2)
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert a.sum().item() == pytest.approx(1)
    late = relaxation.mixture(supernet.groups["layer"], logits, moment(epoch=1, seed=1)).weights
    assert late.max() > a.max()  # colder


def test_the_zero_operation_is_sampled_and_never_derived(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each edge runs what the noise lets win; one whose zero operation wins runs nothing."""
    supernet = Supernet(OneCell(distinct_inputs=False))
    group, relaxation = supernet.groups["cell"], GDAS().relaxation
    rows, columns = relaxation.shape(group)
    assert columns == len(group.columns) + 1 == 8
    assert GDAS(none=False).relaxation.shape(group) == group.shape
    wins = [row % columns for row in range(rows)]
    noise = 9 * torch.nn.functional.one_hot(torch.tensor(wins), columns).float()
    monkeypatch.setattr(module, "gumbel", lambda shape, generator: noise)
    mixture = relaxation.mixture(group, torch.zeros(rows, columns, requires_grad=True), moment())
    assert mixture.active == [[k + 1 == win for k in range(7)] for win in wins]
    assert torch.equal(mixture.weights.detach(), noise[:, 1:] / 9)
    table = relaxation.probabilities(group, torch.zeros(rows, columns))
    assert table.shape == group.shape
    assert table.sum(dim=1).tolist() == pytest.approx([7 / 8] * rows)


def test_gdas_rule_of_oracle_1a() -> None:
    supernet = Supernet(OneCell(distinct_inputs=False))
    tables = probabilities(supernet, cell=oracle_logits())
    (arch,) = top_architectures(supernet, tables, 1, rule="pairs")
    assert slots_of(arch) == [
        [("sep_conv_5x5", 0), ("dil_conv_5x5", 1)],
        [("dil_conv_5x5", 1), ("skip_connect", 0)],
        [("sep_conv_3x3", 3), ("dil_conv_3x3", 3)],
        [("dil_conv_3x3", 1), ("dil_conv_3x3", 3)],
    ]


def test_cells_are_those_of_the_authors_rule() -> None:
    """Of each node the two best of all pairs of edge and operation but `none`, as their code sorts them."""
    supernet = Supernet(OneCell(distinct_inputs=False))
    group, strategy = supernet.groups["cell"], GDAS()
    generator = torch.Generator().manual_seed(0)
    same_edge = 0
    for _ in range(40):
        logits = torch.randn(14, 8, generator=generator, dtype=torch.float64)
        table = logits.softmax(dim=1)
        (arch,) = strategy.architectures(
            supernet, {"cell": strategy.relaxation.probabilities(group, logits)}, 1
        )
        wanted = []
        for node in range(2, 6):
            rows = group.cell.rows_into(node)
            pairs = [
                (name, source, table[rows[source], k])
                for source in range(node)
                for k, name in enumerate(("none", *group.columns))
            ]
            best = sorted((pair for pair in pairs if pair[0] != "none"), key=lambda pair: -pair[2])[:2]
            wanted.append([(name, source) for name, source, _ in best])
            same_edge += best[0][1] == best[1][1]
        assert slots_of(arch) == wanted
    assert same_edge


@pytest.mark.slow
def test_a_gdas_search_runs_one_operation_per_edge(tmp_path: Path) -> None:
    experiment = make(tmp_path / "run", epochs=1, method=GDAS(learning_rate=0.01))
    experiment.run()
    for group in experiment.supernet.groups.values():
        assert all(len(active) <= 1 for active in group.active)  # none where the zero operation was sampled
    experiment.space.validate(experiment.best)


@pytest.mark.parametrize("make_strategy", [GumbelDARTS, GDAS])
def test_bad_temperatures_are_named(make_strategy: type[GDAS]) -> None:
    with pytest.raises(SpaceError, match=r"temperature=0.0 must be a number above 0"):
        make_strategy(temperature=(1.0, 0.0))


@pytest.mark.slow
def test_features_that_a_space_leaves_unused_are_named_once(tmp_path: Path) -> None:
    """Cells with distinct inputs have no pairs on one edge; sets are mixed."""
    assert GDAS().unused_features(Supernet(OneCell(distinct_inputs=False))) == []
    (sentence,) = GDAS().unused_features(Supernet(OneCell(distinct_inputs=True)))
    assert sentence.startswith("nodes of 'cell' read distinct inputs, so none can keep two operations of one")
    assert GDAS().unused_features(Supernet(toy_spaces()["Inputs"])) == [
        "'any', 'two' choose several inputs, which are mixed and not sampled."
    ]
    with pytest.warns(UserWarning, match="GDAS: nodes of 'normal', 'reduce' read distinct inputs") as caught:
        make(tmp_path / "run", epochs=2, method=GDAS()).run()
    assert len([w for w in caught if "distinct inputs" in str(w.message)]) == 1
    with warnings.catch_warnings():  # a resumed search has said it before
        warnings.filterwarnings("error", ".*distinct inputs")
        make(tmp_path / "run", epochs=2, method=GDAS()).run(resume=True)
