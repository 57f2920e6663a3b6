"""Dropout of operations, edges, paths and skips; the entropy of the probabilities; each worked by hand."""

from __future__ import annotations

import math
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spacelang import Cell, InputChoice, LayerChoice, ModelSpace, SpaceError, Supernet
from spacelang.strategies import (
    DARTS,
    GDAS,
    EdgeDropout,
    EntropyPenalty,
    Extra,
    Mixture,
    Moment,
    OperationDropout,
    Penalty,
    RandomOneShot,
    ScheduledDropPath,
    SkipDropout,
)
from spacelang.strategies.framework import SecondOrder, Step, rate_at

from .test_gumbel import Four, moment


class TwoNodes(ModelSpace):
    """Nodes with one and two inputs; identities and ReLUs on edges."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = Cell({"skip": nn.Identity(), "relu": nn.ReLU()}, 2, label="cell")

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(x)


def dropped(extra: Extra, supernet: Supernet, weights: Tensor, now: Moment | None = None) -> Any:
    """What an extra makes of the mixture of the only group, and the supernet computing with it."""
    (group,) = supernet.groups.values()
    mixture = extra.mixture(group, Mixture(weights), now or moment())
    supernet.set_mixture(
        {group.label: mixture.weights}, {group.label: mixture.active} if mixture.active else None
    )
    return mixture


@pytest.mark.parametrize(
    ("draws", "weights", "executed"),
    [
        ((0.1, 0.6, 0.3, 0.9), (0, 0.4, 0, 0.8), {2, 4}),
        ((0.1, 0.4, 0.3, 0.2), (0, 0.4, 0, 0), {2}),  # all would go, so the one of the largest draw stays
    ],
)
def test_operation_dropout_by_hand(
    draws: tuple[float, ...], weights: tuple[float, ...], executed: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """p = 1/2: weights (.1, .2, .3, .4) are multiplied by 0 or 2; candidates multiply by 1, 2, 3, 4."""
    monkeypatch.setattr(torch, "rand", lambda shape, generator: torch.tensor([draws]))
    supernet = Supernet(Four())
    mixture = dropped(OperationDropout((0.5, 0.5)), supernet, torch.tensor([[0.1, 0.2, 0.3, 0.4]]))
    assert mixture.weights[0].tolist() == pytest.approx(weights)
    y = supernet(torch.ones(()))
    assert y.item() == pytest.approx(sum((k + 1) * w for k, w in enumerate(weights)))
    assert {factor for factor, count in supernet.network.calls.items() if count} == executed


@pytest.mark.slow
def test_a_choice_never_loses_everything() -> None:
    """Kept with probability (1 - p) + p^n / n: 3 of 4 candidates alive, p = .8."""
    supernet = Supernet(Four())
    supernet.prune({"layer": [[True, True, False, True]]})
    now, extra = moment(seed=5), OperationDropout((0.8, 0.8))
    draws = [dropped(extra, supernet, torch.ones(1, 4), now) for _ in range(4000)]
    active = torch.tensor([mixture.active for mixture in draws])[:, 0].float()
    assert active.sum(dim=1).min() == 1
    assert active[:, 2].sum() == 0
    expected = 0.2 + 0.8**3 / 3
    assert active.mean(dim=0)[[0, 1, 3]].tolist() == pytest.approx([expected] * 3, abs=0.03)
    weights = torch.cat([mixture.weights[:, [0, 1, 3]] for mixture in draws])
    assert weights.unique().tolist() == pytest.approx([0, 5])


def test_a_single_candidate_is_left_alone() -> None:
    supernet = Supernet(Four())
    supernet.prune({"layer": [[False, True, False, False]]})
    mixture = dropped(OperationDropout((0.9, 0.9)), supernet, torch.full((1, 4), 0.25))
    assert mixture.weights[0, 1] == 0.25
    assert mixture.active == [[False, True, False, False]]


def test_probabilities_follow_the_epochs() -> None:
    supernet = Supernet(Four())
    extra = OperationDropout((0.5, 0.0))
    assert dropped(extra, supernet, torch.ones(1, 4), moment(epoch=2, epochs=3)).active is None
    weights = dropped(extra, supernet, torch.ones(1, 4), moment(epoch=1, epochs=3)).weights
    assert weights[weights > 0].unique().tolist() == pytest.approx([4 / 3])


@pytest.mark.parametrize(
    ("draws", "factors"), [((0.1, 0.2), (0, 2)), ((0.7, 0.2), (2, 0)), ((0.6, 0.9), (2, 2))]
)
def test_edge_dropout_by_hand(
    draws: tuple[float, ...], factors: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Node 1 has one edge, which stays as it is; of the two of node 2 draws say which stay."""
    given = iter([torch.tensor([0.1]), torch.tensor(draws)])
    monkeypatch.setattr(torch, "rand", lambda shape, generator: next(given))
    supernet = Supernet(TwoNodes())
    mixture = dropped(EdgeDropout((0.5, 0.5)), supernet, torch.full((3, 2), 0.25))
    assert mixture.weights.tolist() == [[0.25] * 2, [0.25 * factors[0]] * 2, [0.25 * factors[1]] * 2]
    assert mixture.active == [[True] * 2, [factors[0] > 0] * 2, [factors[1] > 0] * 2]
    supernet(torch.ones(1, 1))


def test_gdas_can_drop_edges_but_not_operations() -> None:
    supernet = Supernet(TwoNodes())
    DARTS(extras=(OperationDropout((0.1, 0.1)),)).attach(supernet)
    GDAS(extras=(EdgeDropout((0.1, 0.1)),)).attach(supernet)
    with pytest.raises(SpaceError, match="GDAS runs one of each choice"):
        GDAS(extras=(OperationDropout((0.1, 0.1)),)).attach(supernet)


def test_strategies_say_that_weights_may_be_unused() -> None:
    assert not DARTS().samples_paths
    assert DARTS(extras=(EdgeDropout((0.1, 0.1)),)).samples_paths


@pytest.mark.parametrize("seed", range(3))
def test_second_order_draws_the_same_on_both_sides(seed: int) -> None:
    """L_train is bilinear but for its random mask, so that both forms agree if the mask is the same."""
    model = nn.Linear(3, 1, bias=False).double()
    logits = nn.Parameter(torch.tensor([0.5, -0.2, 0.1], dtype=torch.float64))
    generator = torch.Generator()

    def loss() -> Tensor:
        mask = (torch.rand(3, generator=generator) > 0.5).double()
        return (mask * logits * model.weight[0]).sum()

    def val_loss() -> Tensor:
        return (model.weight**3).sum()

    found = []
    for hvp in ("finite", "exact"):
        generator.manual_seed(seed)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        step = Step([logits], loss, val_loss, model, [optimizer], generator)
        (gradient,) = SecondOrder(hvp).gradients(step)  # type: ignore[arg-type]
        assert gradient is not None
        found.append(gradient)
        assert generator.get_state().equal(torch.Generator().manual_seed(seed).get_state())
    assert torch.allclose(found[0], found[1], atol=1e-12)


# -- outputs ---------------------------------------------------------------------------------------------


def test_drop_path_drops_samples_in_training() -> None:
    """p = .8 * 1 / 2 = .4 in epoch 1 of 2: rows are zero or divided by .6."""
    extra, relu, now = ScheduledDropPath(0.8), nn.ReLU(), moment(epoch=1, epochs=2)
    x = torch.full((4000, 2, 1, 1), 3.0)
    torch.manual_seed(0)
    y = extra.transform(relu, x, now)[:, :, 0, 0]
    assert torch.equal(y[:, 0], y[:, 1])  # a sample is dropped as a whole
    assert {round(value, 5) for value in y[:, 0].tolist()} == {0.0, 5.0}
    assert (y[:, 0] == 0).float().mean().item() == pytest.approx(0.4, abs=0.03)
    assert extra.transform(nn.Identity(), x, now) is x
    assert extra.transform(relu, x, moment(epoch=0, epochs=2)) is x
    assert extra.transform(relu.eval(), x, now) is x


def test_skip_dropout_schedule() -> None:
    """Section 2: p0 = .4 over 25 epochs of which the first 10 train weights alone."""
    extra = SkipDropout(0.4)
    rates = [extra.rate(moment(epoch=epoch, epochs=25)) for epoch in (0, 9, 10, 11, 24)]
    assert rates == pytest.approx([0.384, 0.24, 0.4, 0.3274923, 0.0243240], abs=5e-8)


def test_skip_dropout_acts_on_identities_in_training() -> None:
    extra, identity = SkipDropout(0.5, warmup_epochs=0), nn.Identity()
    x = torch.ones(1000)
    y = extra.transform(identity, x, moment())
    assert set(y.tolist()) == {0.0, 2.0}
    assert extra.transform(nn.ReLU(), x, moment()) is x
    assert torch.equal(extra.transform(identity.eval(), x, moment()), x)


# -- entropy ---------------------------------------------------------------------------------------------


class ThreeChoices(ModelSpace):
    """A layer, a cell and a set of inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = LayerChoice([nn.Identity(), nn.ReLU()], label="layer")
        self.cell = Cell([nn.Identity(), nn.ReLU(), nn.Tanh()], 1, label="cell")
        self.inputs = InputChoice(2, None, label="inputs")

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        return self.inputs(x, self.cell(x))


def test_entropy_by_hand() -> None:
    """Inputs are two coins."""
    supernet = Supernet(ThreeChoices())
    supernet.prune({"cell": [[True, True, False]]})
    logits = torch.tensor([[0.0, math.log(3)]], requires_grad=True)
    tables = {
        "cell": torch.tensor([[0.25, 0.75, 0.0]]),
        "inputs": torch.tensor([[0.5, 0.9]]),
        "layer": logits.softmax(dim=1),
    }
    search: Any = SimpleNamespace(
        supernet=supernet, moment=moment(epoch=1, epochs=3), distributions=lambda: tables
    )
    loss = EntropyPenalty((0.0, 0.4)).objective(torch.tensor(1.0), search)  # weight .2 in the middle
    quarter = -0.25 * math.log(0.25) - 0.75 * math.log(0.75)
    coins = math.log(2) - 0.9 * math.log(0.9) - 0.1 * math.log(0.1)
    assert loss.item() == pytest.approx(1 + 0.2 * (quarter + coins + quarter) / 3)
    (gradient,) = torch.autograd.grad(loss, logits)
    # dH/dalpha_k = -p_k (log p_k + H)
    expected = [-p * (math.log(p) + quarter) * 0.2 / 3 for p in (0.25, 0.75)]
    assert gradient[0].tolist() == pytest.approx(expected, rel=1e-5)
    assert gradient[0, 0] > 0 > gradient[0, 1]  # a step against it makes the likelier one likelier


def test_entropy_of_pruned_searches_is_finite() -> None:
    supernet = Supernet(ThreeChoices())
    supernet.prune({"cell": [[False, False, False]], "layer": [[True, False]]})
    search = DARTS().attach(supernet)
    loss = EntropyPenalty((1.0, 1.0)).objective(torch.zeros(()), search)
    gradients = torch.autograd.grad(loss, list(search.parameters.logits.values()), allow_unused=True)
    assert loss.item() == pytest.approx(2 * math.log(2), abs=1e-5)  # the inputs alone
    assert all(g is None or g.isfinite().all() for g in gradients)


def test_nothing_undecided_has_no_entropy() -> None:
    supernet = Supernet(TwoNodes())
    supernet.prune({"cell": [[True, False]] * 3})
    loss = EntropyPenalty((1.0, 1.0)).objective(torch.ones(()), DARTS().attach(supernet))
    assert loss == 1


# -- refusals --------------------------------------------------------------------------------------------


class NoOperations(ModelSpace):
    """A choice of inputs alone."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs = InputChoice(2, label="inputs")


class Wide(ModelSpace):
    """No identity to choose."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = LayerChoice([nn.ReLU(), nn.Tanh()], label="layer")


@pytest.mark.parametrize(
    ("extra", "space", "message"),
    [
        (EdgeDropout((0.1, 0.1)), NoOperations, "this space has no cell"),
        (ScheduledDropPath(0.1), NoOperations, "none but identities"),
        (SkipDropout(0.1), Wide, "this space has none"),
    ],
)
def test_what_has_no_meaning_is_refused(extra: Extra, space: type[ModelSpace], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        DARTS(extras=(extra,)).attach(Supernet(space()))


@pytest.mark.parametrize(
    "extra", [OperationDropout((0.1, 0.1)), EdgeDropout((0.1, 0.1)), EntropyPenalty((0.1, 0.1))]
)
def test_path_sampling_has_no_probabilities(extra: Extra) -> None:
    with pytest.raises(SpaceError, match=f"{type(extra).__name__} reads the probabilities"):
        RandomOneShot(extras=(extra,)).attach(Supernet(TwoNodes()))
    RandomOneShot(extras=(ScheduledDropPath(0.1), SkipDropout(0.1))).attach(Supernet(TwoNodes()))


@pytest.mark.parametrize("make", [lambda: OperationDropout((0.1,)), lambda: EntropyPenalty((1.0,))])
def test_rates_are_one_number_or_two(make: Any) -> None:
    with pytest.raises(SpaceError, match="must be a number, or two: for the first and for the last epoch"):
        make()


def test_every_rate_may_be_one_number_or_two() -> None:
    """One is constant but where a paper has a schedule; two are linear from the first to the last epoch."""
    middle = moment(epoch=2, epochs=5)
    assert rate_at(0.3, middle) == 0.3
    assert rate_at((0.1, 0.5), middle) == pytest.approx(0.3)
    assert ScheduledDropPath(0.5).rate(middle) == pytest.approx(0.2)
    assert ScheduledDropPath((0.1, 0.5)).rate(middle) == pytest.approx(0.3)
    assert SkipDropout((0.1, 0.5), warmup_epochs=0).rate(middle) == pytest.approx(0.3)
    for p in (0.1, (0.1, 0.2)):
        assert OperationDropout(p).p == EdgeDropout(p).p == EntropyPenalty(p).weight == p
        assert Penalty("params", 9, weight=p).weight == p


@pytest.mark.parametrize("make", [lambda: OperationDropout((0.0, 1.0)), lambda: ScheduledDropPath(-0.1)])
def test_bad_probabilities_are_named(make: Any) -> None:
    with pytest.raises(SpaceError, match=r"p=.* must be a number of at least 0 and below 1"):
        make()


def test_bad_epochs_are_named() -> None:
    with pytest.raises(SpaceError, match="warmup_epochs=-1"):
        SkipDropout(0.1, warmup_epochs=-1)


def test_dropout_counts_calls_of_a_whole_cell() -> None:
    """Dropped edges run nothing: the number of calls is that of active entries."""
    calls: Counter[str] = Counter()

    class Counted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            calls["all"] += 1
            return x

    class Cells(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.cell = Cell([Counted(), Counted()], 3, 2, 2, label="cell")

        def forward(self, x: Tensor) -> Tensor:
            return self.cell(x, x)

    supernet = Supernet(Cells())
    mixture = dropped(EdgeDropout((0.6, 0.6)), supernet, torch.ones(9, 2), moment(seed=3))
    supernet(torch.ones(1, 1))
    assert 3 <= calls["all"] // 2 < 9
    assert calls["all"] == sum(sum(row) for row in mixture.active)
