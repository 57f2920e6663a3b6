"""Penalties on expected costs: the papers' numbers, gradients, and searches that they steer."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn

from spacelang import Cell, InputChoice, LayerChoice, ModelSpace, Repeat, SpaceError, Supernet, value_choice
from spacelang import nn as space_nn
from spacelang.costs import LatencyTable, expected_cost, measure_latency
from spacelang.strategies import DARTS, OneShot, Penalty, ProxylessNAS
from spacelang.strategies.extras.penalty import cost_range

from ..toys.search_script import make
from .test_search import loader, quiet_trainer

FORMS = ("linear", "above", "below", "absolute", "log")


def penalised(loss: float, cost: float, target: float, **settings: Any) -> float:
    penalty = Penalty("params", target, **settings)
    numbers = (torch.tensor(x, dtype=torch.float64) for x in (loss, cost))
    return penalty.penalised(*numbers, penalty.weight).item()


# -- the papers' numbers ---------------------------------------------------------------------------------


def test_oracles_of_proxylessnas() -> None:
    log = {"form": "log", "combine": "multiply", "weight": 0.3, "scale": 0.2}
    assert penalised(2, 100, 80, **log) == pytest.approx(0.4060048, abs=5e-8)
    assert penalised(2, 100, 80, form="linear") == pytest.approx(2.025)


def test_oracles_of_mnasnet_and_tunas() -> None:
    """Rewards acc .75, as the losses 1 / acc and -acc that they amount to."""
    soft = {"form": "linear", "combine": "multiply", "weight": 0.07}
    assert 1 / penalised(1 / 0.75, 100, 84, **soft) == pytest.approx(0.74090208, abs=5e-9)
    assert 1 / penalised(1 / 0.75, 85, 80, **soft) == pytest.approx(0.74682395, abs=5e-9)
    assert -penalised(-0.75, 100, 84, weight=0.07) == pytest.approx(0.73666667, abs=5e-9)


@pytest.mark.parametrize(
    ("form", "cost", "n"),
    [
        ("linear", 50, -0.5),
        ("above", 50, 0),
        ("above", 150, 0.5),
        ("below", 50, -0.5),
        ("below", 150, 0),
        ("absolute", 50, 0.5),
        ("absolute", 150, 0.5),
        ("log", 10, -0.5),
    ],
)
def test_forms(form: str, cost: float, n: float) -> None:
    """The eight penalties of NNI are the first four forms, added or multiplied."""
    assert penalised(2, cost, 100, form=form, weight=0.3, scale=0.5) == pytest.approx(1 + 0.3 * n)
    multiplied = penalised(2, cost, 100, form=form, combine="multiply", weight=0.3, scale=0.5)
    assert multiplied == pytest.approx((1 + n) ** 0.3)


# -- gradients -------------------------------------------------------------------------------------------


class Every(ModelSpace):
    """A choice of every kind: layer, input, sets, depth, value, cell."""

    def __init__(self) -> None:
        super().__init__()
        width = value_choice([2, 3, 5], label="width")
        self.layer = LayerChoice({"one": nn.Linear(3, 3), "two": Two(), "none": nn.Identity()}, label="layer")
        self.one = InputChoice(2, label="one")
        self.two = InputChoice(3, 2, label="two")
        self.any = InputChoice(2, None, label="any")
        self.blocks = Repeat(lambda i: nn.Linear(3, 3), (0, 2), label="depth")
        self.values = nn.Sequential(space_nn.Linear(3, width), space_nn.Linear(width, 3))
        self.cell = Cell({"one": nn.Linear(3, 3), "two": Two()}, 2, 2, concat_dim=-1, label="cell")

    def forward(self, x: Tensor) -> Tensor:
        x = self.one([self.layer(x), x])
        x = self.two([x, -x, x + 1]) + self.any([x, 2 * x])
        return self.cell(self.values(self.blocks(x)))


class Two(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 3), nn.Linear(3, 3))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "metric", "form"),
    [
        *((DARTS, "params", form) for form in FORMS),
        (DARTS, "flops", "linear"),
        (DARTS, "latency", "linear"),
        (ProxylessNAS, "latency", "log"),
    ],
)
def test_the_gradient_is_a_finite_difference(strategy: Any, metric: Any, form: Any) -> None:
    example = () if metric == "params" else torch.zeros(4, 3)
    search = strategy(init_scale=1.0).attach(Supernet(Every()), seed=0)
    if metric == "latency":  # every candidate of every choice has a time of its own
        keys = measure_latency(Every(), example, repeats=1, warmup=0).milliseconds
        inputs = {f"{label}/0": 0.5 for label in ("one", "two", "any")}
        metric = {key: 2 + math.sin(i) for i, key in enumerate(keys)} | inputs
    for logits in search.parameters.logits.values():
        logits.data = logits.data.double()
    cost = Penalty(metric, 1.0, example_inputs=example).expected(search).item()
    for target in (0.8 * cost, 1.2 * cost):  # on both sides of the bend
        penalty = Penalty(metric, target, form=form, combine="multiply", example_inputs=example)
        loss = torch.tensor(2.0, dtype=torch.float64)
        parameters = list(search.parameters.logits.values())
        gradients = torch.autograd.grad(penalty.objective(loss, search), parameters, allow_unused=True)
        for (label, logits), gradient in zip(search.parameters.logits.items(), gradients, strict=True):
            difference = torch.zeros_like(logits)
            for place in range(logits.numel()):
                sides = []
                for eps in (1e-5, -1e-5):
                    logits.data.view(-1)[place] += eps
                    sides.append(penalty.objective(loss, search).item())
                    logits.data.view(-1)[place] -= eps
                difference.view(-1)[place] = (sides[0] - sides[1]) / 2e-5
            if gradient is None:
                gradient = torch.zeros_like(logits)
            assert torch.allclose(gradient, difference, atol=1e-8), label
            flat = {"above": target > cost, "below": target < cost}.get(form, False)
            priced = isinstance(metric, dict) or label not in (
                "one",
                "two",
                "any",
            )  # inputs hold no parameters
            assert gradient.any() == (priced and not flat), label


# -- searches --------------------------------------------------------------------------------------------


class Slope(nn.Module):
    """y = slope x, with idle parameters."""

    def __init__(self, slope: float, parameters: int) -> None:
        super().__init__()
        self.slope = slope
        self.idle = nn.Parameter(torch.zeros(parameters))

    def forward(self, x: Tensor) -> Tensor:
        return self.slope * x


class Trade(ModelSpace):
    """A cheap candidate that is wrong, and an accurate one."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = LayerChoice({"cheap": Slope(1, 10), "accurate": Slope(2, 1000)}, label="layer")

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Fixed(pl.LightningModule):
    """Squared error; nothing but the logits is trained."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.one = nn.Parameter(torch.ones(()))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self.one * nn.functional.mse_loss(self.model(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Lightning offers no validation batches without it."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([self.one], lr=0.0)


def searched(tmp_path: Path, *extras: Any, strategy: Any = DARTS, **settings: Any) -> Any:
    """Search `Trade` for the slope of x = 1, y = 2."""
    search = strategy(extras=extras, learning_rate=0.2, weight_decay=0, **settings).attach(Supernet(Trade()))
    trainer = quiet_trainer(tmp_path, search, max_epochs=3)
    trainer.fit(Fixed(search.supernet), loader([1.0] * 15, 2.0), loader([1.0], 2.0))
    return search


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "settings"),
    [
        (DARTS, {}),
        (ProxylessNAS, {"warmup_epochs": 0, "update_every": 1}),
        (ProxylessNAS, {"warmup_epochs": 0, "update_every": 1, "gates": "two"}),
    ],
)
def test_a_strong_penalty_decides_for_the_cheap_candidate(
    tmp_path: Path, strategy: Any, settings: Any
) -> None:
    assert searched(tmp_path, strategy=strategy, **settings).derive() == [{"layer": "accurate"}]
    weak = Penalty("params", 1000.0, weight=1e-3, form="linear")
    assert searched(tmp_path, weak, strategy=strategy, **settings).derive() == [{"layer": "accurate"}]
    strong = Penalty("params", 10.0, weight=10.0)
    assert searched(tmp_path, strong, strategy=strategy, **settings).derive() == [{"layer": "cheap"}]


def test_the_expected_cost_reaches_its_target_and_is_recorded(tmp_path: Path) -> None:
    search = searched(tmp_path, Penalty("params", 300.0, weight=10.0), Penalty("params", 500.0, weight=1e-6))
    assert set(search.records) == {"expected_params", "expected_params_2"}
    recorded = search.records["expected_params"]
    assert recorded == search.records["expected_params_2"]
    cost = expected_cost(search.supernet, "params")
    assert recorded == [cost({"layer": table}).item() for table in search.history["layer"]]
    assert recorded[-1] == pytest.approx(300, rel=0.2)
    assert search.summary()["records"]["expected_params"] == recorded


# -- checks before training ------------------------------------------------------------------------------


def test_the_range_of_the_expectation() -> None:
    supernet = Supernet(Every())
    low, high = cost_range(expected_cost(supernet, "params"), supernet)
    linear = 12  # parameters
    assert (
        low == 0 + 0 + (2 * 7 + 3) + 4 * linear
    )  # layer, depth, value, two operations for each of two nodes
    assert high == 2 * linear + 2 * linear + (5 * 7 + 3) + 4 * 2 * linear


@pytest.mark.parametrize("target", [5.0, 2000.0])
def test_a_target_out_of_reach_is_named(target: float) -> None:
    with pytest.warns(UserWarning, match=r"target=.* is out of reach: .* 10 to 1,000 \(params\)"):
        DARTS(extras=(Penalty("params", target),)).attach(Supernet(Trade()))


@pytest.mark.parametrize("target", [10.0, 1000.0])
def test_a_target_within_reach_is_not(target: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DARTS(extras=(Penalty("params", target),)).attach(Supernet(Trade()))


@pytest.mark.filterwarnings(r"ignore:Penalty\(target")
@pytest.mark.parametrize(
    ("metric", "settings", "message"),
    [
        ("speed", {}, "metric='speed'; expected 'params', 'flops' or a latency table"),
        ("flops", {}, "FLOPs need an example input"),
        ({"layer/dear": 1.0}, {}, "'layer/dear'"),
        (LatencyTable({"layer/cheap": 0.5, "layer/accurate": 2.0}), {"form": "log"}, "begins at 0.5"),
    ],
)
def test_bad_metrics_are_named_before_training(metric: Any, settings: Any, message: str) -> None:
    strategy = DARTS(extras=(Penalty(metric, 100.0, **settings),))
    with pytest.raises(SpaceError, match=message):
        strategy.attach(Supernet(Trade()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": 0.0}, "target=0.0"),
        ({"target": math.nan}, "target=nan"),
        ({"weight": -1.0}, "weight=-1.0"),
        ({"form": "cubic"}, "form='cubic'"),
        ({"combine": "or"}, "combine='or'"),
        ({"form": "log", "target": 0.5}, "target=0.5"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        Penalty(**{"metric": "params", "target": 10.0, **settings})


def test_a_strategy_without_probabilities_is_refused() -> None:
    class Paths(OneShot):
        """Trains one path at a time."""

    with pytest.raises(SpaceError, match="Penalty reads the probabilities of candidates, and Paths"):
        Paths(extras=(Penalty("params", 100.0),)).check(Supernet(Trade()))


@pytest.mark.slow
def test_an_experiment_records_its_penalty(tmp_path: Path) -> None:
    """So that it is not resumed with another one."""
    strategy = DARTS(extras=(Penalty("params", 4000.0),))
    (extra,) = make(tmp_path / "run", method=strategy)._record()["strategy"]["extras"]
    assert extra["class"] == "spacelang.strategies.extras.penalty.Penalty"
    assert (extra["target"], extra["form"]) == (4000.0, "absolute")
