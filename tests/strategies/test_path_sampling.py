"""Path sampling: one path a batch, a comparison at the end that leaves the supernet as it was."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric

from spacelang import Experiment, LayerChoice, ModelSpace, SpaceError, Supernet, value_choice
from spacelang.costs import expected_cost
from spacelang.evaluators import Lightning
from spacelang.nn import ValueLayer
from spacelang.strategies import SPOS, CostReward, PathSampling, RandomOneShot
from spacelang.strategies.framework import Unseen
from spacelang.supernet import recalibrate
from spacelang.testing import toy_spaces
from spacelang.testing.toy_evaluators import Fit

from ..toys.paths import Anything, Small, rows, searched, trainer
from ..toys.search_script import outcome
from ..toys.spaces import CASES, Case
from ..toys.trials import Scale

FEW = RandomOneShot(candidates=4, first_batches=1, finalists=2, calibration_batches=2)


# -- training ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_choice_can_be_searched(tmp_path: Path, case: Case) -> None:
    space = case.space(torch.float32)
    supernet = Supernet(space)
    search = FEW.attach(supernet)
    batches = DataLoader([case.example(torch.float32, seed) for seed in range(2)], batch_size=None)
    trainer(tmp_path, search, num_sanity_val_steps=2).fit(Anything(supernet), batches, batches)
    for arch in search.derive(3):
        space.validate(arch)
        supernet.select(arch)
        model = supernet.freeze(arch).eval()
        assert torch.equal(model(*case.example(torch.float32)), supernet.eval()(*case.example(torch.float32)))


def test_a_value_outside_layers_is_refused() -> None:
    class Rate(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.layer = LayerChoice([nn.Tanh(), nn.ReLU()], label="layer")
            self.rate = value_choice([0.1, 0.2], label="rate")

    with pytest.raises(SpaceError, match=r"(?s)'rate' belongs to no layer.*layer_type = Scale`"):
        FEW.attach(Supernet(Rate()))


class ElasticScale(ValueLayer):
    layer_type = Scale


def test_a_number_that_a_layer_of_ones_own_reads_is_searched(tmp_path: Path) -> None:
    """The advice of the refusal above."""

    class Scaled(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                nn.Linear(2, 2), ElasticScale(value_choice([0.5, 3.0], label="factor"))
            )

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.layers(x)
            return y

    supernet, x = Supernet(Scaled()), torch.randn(3, 2)
    search = FEW.attach(supernet)
    trainer(tmp_path, search).fit(Anything(supernet), *([DataLoader([(x,)], batch_size=None)] * 2))
    assert set(search.derive(1)[0]) == {"factor"}
    linear: Any = supernet.network.layers[0]
    for factor in (0.5, 3.0):
        supernet.select({"factor": factor})
        assert torch.equal(supernet(x), factor * linear(x))
        assert torch.equal(supernet.freeze({"factor": factor})(x), factor * linear(x))


class Counts(pl.Callback):
    """Which candidates ran in each training batch, and which path was selected."""

    def __init__(self) -> None:
        self.ran: list[list[str]] = []
        self.paths: list[list[str]] = []
        self.counting = False

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        def count(name: str) -> None:
            if self.counting:
                self.ran[-1].append(name)

        for name, child in pl_module.model.network.blocks.named_modules():
            if isinstance(child, nn.Linear | nn.Tanh):
                child.register_forward_hook(lambda *_, name=name: count(name))

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.ran.append([])
        self.counting = True

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
        self.counting = False
        groups = pl_module.model.groups
        self.paths.append(
            [f"{i}.candidates.{groups[f'block{i}'].active[0][0]}" for i in range(groups["depth"].selected)]
        )


def test_only_the_sampled_candidates_run(tmp_path: Path) -> None:
    counts = Counts()
    searched(tmp_path, FEW, counts, max_epochs=5)
    assert len(counts.paths) == 20
    assert counts.ran == [[f"blocks.{name}" for name in path] for path in counts.paths]
    assert len({tuple(path) for path in counts.paths}) > 3


def test_paths_depend_on_seed_and_epoch_alone(tmp_path: Path) -> None:
    a, b = Counts(), Counts()
    searched(tmp_path, FEW, a, max_epochs=2)
    searched(tmp_path, FEW, b, max_epochs=2, num_sanity_val_steps=0)
    other = Counts()
    searched(tmp_path, FEW, other, max_epochs=2, seed=1)
    assert a.paths == b.paths
    assert a.paths != other.paths
    assert a.paths[:4] != a.paths[4:]


def test_the_filter_holds_in_training_and_in_the_result(tmp_path: Path) -> None:
    counts = Counts()
    strategy = RandomOneShot(
        candidates=4, first_batches=1, finalists=2, filter=lambda arch: arch["depth"] == 1
    )
    search, _ = searched(tmp_path, strategy, counts, max_epochs=3)
    assert {len(path) for path in counts.paths} == {1}
    assert {arch["depth"] for arch in search.derive(9)} == {1}


def test_a_filter_that_rejects_everything_is_found_before_training() -> None:
    with pytest.raises(SpaceError, match="filter rejected 1000"):
        SPOS(filter=lambda arch: False).attach(Supernet(Small()))


# -- comparing ---------------------------------------------------------------------------------------------


def test_there_is_no_result_before_the_end(tmp_path: Path) -> None:
    class Ask(pl.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            with pytest.raises(SpaceError, match="RandomOneShot compares architectures at the end"):
                trainer.callbacks[0].derive()
            asked.append(True)

    asked: list[bool] = []
    search, _ = searched(tmp_path, FEW, Ask())
    assert asked
    assert search.derive() == [search.ranking[0][1]]
    with pytest.raises(SpaceError, match="count=0 must be an integer of at least 1"):
        search.derive(0)


def test_the_best_comes_first_without_duplicates(tmp_path: Path) -> None:
    search, _ = searched(tmp_path, RandomOneShot(candidates=12, finalists=12), max_epochs=2)
    values = [value for value, _ in search.ranking]
    assert values == sorted(values)
    archs = search.derive(12)
    assert len({json.dumps(arch, sort_keys=True) for arch in archs}) == len(archs) == 12
    summary = search.summary()
    assert summary["compared_by"] == "loss"
    assert summary["ranking"][0] == {"value": values[0], "architecture": archs[0]}


def test_direction_and_nan() -> None:
    pairs = [(0.5, {"a": 0}), (math.nan, {"a": 1}), (0.2, {"a": 2})]
    assert [v for v, _ in PathSampling().best_first(pairs)[:2]] == [0.2, 0.5]
    highest = PathSampling(metric="val_acc", mode="max").best_first(pairs)
    assert [arch["a"] for _, arch in highest] == [0, 2, 1]


class Around(pl.Callback):
    """State of module and generators before and after what `search` does at the end of training."""

    def __init__(self) -> None:
        self.states: list[Any] = []

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.states.append(
            (
                {name: value.clone() for name, value in pl_module.state_dict().items()},
                [child.training for child in pl_module.modules()],
                torch.get_rng_state(),
                np.random.get_state()[1].tolist(),
            )
        )


def test_comparing_leaves_everything_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(0)
    supernet = Supernet(Small())
    search, around, module = FEW.attach(supernet), Around(), Anything(supernet)
    module.model.network.stem[2].eval()  # a mode of one's own
    # The callback twice: before the search, and after it.
    after = Around()
    after.states = around.states
    trainer(tmp_path, around, search, after).fit(module, rows(4, 1), rows(3, 2))
    (weights, *before), (weights_after, *after_) = around.states
    assert all(torch.equal(value, weights_after[name]) for name, value in weights.items())
    assert before[0] == after_[0]
    assert torch.equal(before[1], after_[1])
    assert before[2] == after_[2]


def test_a_value_is_that_of_the_recalibrated_frozen_model(tmp_path: Path) -> None:
    arch = {"depth": 2, "block0": "linear", "block1": "tanh", "join": [0, 1]}

    class One(RandomOneShot):
        def rank(self, space: Any, measure: Any, rng: Any) -> Any:
            return [(measure(arch), arch)]

    supernet = Supernet(Small())
    supernet.network.stem[2].p = 0.0  # else what is dropped in calibration differs
    search = One(calibration_batches=4).attach(supernet)
    trainer(tmp_path, search).fit(Anything(supernet), rows(4, 1), rows(3, 2))
    model = supernet.freeze(arch)
    recalibrate(model, [lambda x=x: model(x) for (x,) in rows(4, 1)])
    with torch.no_grad():
        losses = [float((model.eval()(x) - 1).square().mean()) for (x,) in rows(3, 2)]
    assert search.ranking[0][0] == pytest.approx(sum(losses) / 3, rel=1e-6)


def test_batches_count_by_their_samples(tmp_path: Path) -> None:
    uneven = DataLoader(
        [(torch.full((n, 3), float(value)),) for n, value in ((6, 1), (2, 5))], batch_size=None
    )
    supernet = Supernet(Small())
    strategy = RandomOneShot(candidates=1, finalists=1, metric="val_first", mode="min", calibration_batches=0)
    search = strategy.attach(supernet)
    trainer(tmp_path, search).fit(Anything(supernet), rows(2, 1), uneven)
    assert search.ranking[0][0] == pytest.approx((6 * 1 + 2 * 5) / 8)


def test_few_batches_are_the_same_for_all(tmp_path: Path) -> None:
    torch.manual_seed(0)
    supernet = Supernet(Small())
    shuffled = DataLoader([(torch.full((2, 3), float(i)),) for i in range(50)], batch_size=None, shuffle=True)
    strategy = RandomOneShot(candidates=5, finalists=1, first_batches=2, metric="val_first", mode="max")
    search = strategy.attach(supernet)
    trainer(tmp_path, search).fit(Anything(supernet), rows(2, 1), shuffled)
    assert len({value for value, _ in search.ranking[1:]}) == 1


def test_a_metric_object_may_be_logged(tmp_path: Path) -> None:
    class WithMetric(Anything):
        def __init__(self, model: nn.Module) -> None:
            super().__init__(model)
            self.mean = MeanMetric()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.mean(batch[0][:, 0])
            self.log("val_mean", self.mean)

    supernet = Supernet(Small())
    search = RandomOneShot(candidates=1, finalists=1, metric="val_mean", mode="max").attach(supernet)
    trainer(tmp_path, search).fit(WithMetric(supernet), rows(2, 1), rows(3, 2))
    expected = torch.cat([x for (x,) in rows(3, 2)])[:, 0].mean()
    assert search.ranking[0][0] == pytest.approx(float(expected), rel=1e-6)


def test_what_cannot_be_measured_is_found_before_training(tmp_path: Path) -> None:
    supernet = Supernet(Small())
    search = RandomOneShot(metric="val_acc", mode="max").attach(supernet)
    module = Anything(supernet)
    with pytest.raises(SpaceError, match=r"metric='val_acc' is not .* 'val_loss', 'val_first'"):
        trainer(tmp_path, search).fit(module, rows(4, 1), rows(3, 2))
    assert module.seen == []


def test_a_loss_that_evaluation_mode_has_not_is_found_before_training(tmp_path: Path) -> None:
    class NeedsPair(Anything):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if not self.training:
                raise ValueError("no auxiliary output")
            return super().training_step(batch, batch_idx)

    for metric, notes in ((None, 1), ("val_loss", 0)):
        supernet = Supernet(Small())
        strategy = RandomOneShot(candidates=1, finalists=1, metric=metric, mode=metric and "min")
        run = trainer(tmp_path, strategy.attach(supernet))
        if notes:
            with pytest.raises(ValueError, match="no auxiliary output") as caught:
                run.fit(NeedsPair(supernet), rows(2, 1), rows(2, 2))
            assert "metric= and mode=" in caught.value.__notes__[0]
        else:
            run.fit(NeedsPair(supernet), rows(2, 1), rows(2, 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric": "val_acc"}, "metric='val_acc' and mode=None"),
        ({"mode": "max"}, "metric=None and mode='max'"),
        ({"metric": "val_acc", "mode": "most"}, "mode='most'"),
        ({"calibration_batches": -1}, "calibration_batches=-1"),
        ({"validation_batches": 0}, "validation_batches=0"),
        ({"finalists": 5, "candidates": 4}, "finalists=5 of candidates=4"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        RandomOneShot(**settings)


# -- RandomOneShot -----------------------------------------------------------------------------------------


def test_the_best_of_a_first_measurement_are_measured_again() -> None:
    space = Small().decision_space
    calls: list[tuple[dict[str, Any], int | None]] = []

    def measure(arch: dict[str, Any], batches: int | None = None) -> float:
        calls.append((arch, batches))
        return float(space.encode(arch).sum()) - (10 if batches is None else 0)

    ranking = RandomOneShot(candidates=9, first_batches=3, finalists=2).rank(
        space, measure, np.random.default_rng(0)
    )
    assert [batches for _, batches in calls] == [3] * 9 + [None] * 2
    first = sorted(float(space.encode(arch).sum()) for arch, _ in calls[:9])
    assert [value for value, _ in ranking] == [first[0] - 10, first[1] - 10, *first[2:]]


def test_unseen_gives_up_in_a_small_space() -> None:
    space, rng = Small(), np.random.default_rng(0)
    taken = Unseen(None).take(100, lambda: space.sample(rng))
    assert len(taken) == space.size()


# -- progress, resume --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bar", [TQDMProgressBar, RichProgressBar])
def test_a_bar_counts_the_comparisons(tmp_path: Path, capsys: Any, bar: type[pl.Callback]) -> None:
    searched(tmp_path, FEW, bar(), enable_progress_bar=True)
    shown = capsys.readouterr().out
    assert "Comparing" in shown
    assert "6/6" in shown


def test_no_bar_where_the_trainer_shows_none(tmp_path: Path, capsys: Any) -> None:
    searched(tmp_path, FEW)
    captured = capsys.readouterr()
    assert "Comparing" not in captured.out + captured.err


def test_a_kill_while_comparing_resumes_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from spacelang.strategies.framework import Scorer

    def make(folder: Path) -> Experiment:
        evaluator = Lightning(
            Anything,
            train_dataloaders=rows(4, 1),
            val_dataloaders=rows(3, 2),
            max_epochs=2,
            logger=False,
            accelerator="cpu",
            enable_progress_bar=False,
        )
        return Experiment(Small(), evaluator, FEW, directory=folder, seed=0)

    whole = make(tmp_path / "whole")
    whole.run()
    measure, calls = Scorer.measure, []

    def stopping(self: Scorer, *args: Any) -> float:
        calls.append(args)
        if len(calls) == 3:
            raise InterruptedError
        return measure(self, *args)

    monkeypatch.setattr(Scorer, "measure", stopping)
    with pytest.raises(InterruptedError):
        make(tmp_path / "run").run()
    monkeypatch.undo()
    resumed = make(tmp_path / "run")
    resumed.run(resume=True)
    assert outcome(resumed) == outcome(whole)
    # A finished run is loaded: nothing is measured again.
    monkeypatch.setattr(Scorer, "measure", lambda *args: pytest.fail("measured"))
    loaded = make(tmp_path / "run")
    loaded.run(resume=True)
    assert loaded.export_top_models(3) == whole.export_top_models(3)


@pytest.mark.slow
def test_importing_strategies_needs_no_lightning() -> None:
    script = "import sys, spacelang.strategies; print('lightning' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_best_is_selected_at_the_end(tmp_path: Path) -> None:
    search, module = searched(tmp_path, FEW)
    best, x = search.derive()[0], torch.randn(5, 3)
    supernet = module.model.eval()
    assert torch.equal(supernet(x), supernet.freeze(best).eval()(x))


def test_oracle_of_rewards_with_a_cost() -> None:
    """Accuracy .75; 100 and 84 for 84, 85 for 80, weight -.07."""
    soft, tunas, hard = (CostReward("params", 84, form=form) for form in ("power", "absolute", "above"))
    assert soft.worth(0.75, 100) == pytest.approx(0.74090208, abs=5e-9)
    assert tunas.worth(0.75, 100) == pytest.approx(0.73666667, abs=5e-9)
    assert CostReward("params", 80, form="power").worth(0.75, 85) == pytest.approx(0.74682395, abs=5e-9)
    assert hard.worth(0.75, 100) == soft.worth(0.75, 100)
    assert hard.worth(0.75, 42) == 0.75
    assert tunas.worth(0.75, 42) == pytest.approx(0.75 - 0.07 / 2)


def test_a_reward_trades_quality_for_cost(tmp_path: Path) -> None:
    """The value of the ranking is exp(-loss) + weight |c / target - 1|; with much weight the size decides."""
    space = toy_spaces()["Cells"]
    params = expected_cost(space, "params").of
    target = min(params(space.sample(np.random.default_rng(seed))) for seed in range(20))
    settings: dict[str, Any] = {
        "candidates": 12,
        "first_batches": 1,
        "finalists": 12,
        "calibration_batches": 0,
    }
    found = {}
    for weight in (-1e-9, -1e3):
        strategy = RandomOneShot(reward=CostReward("params", target, weight=weight), **settings)
        experiment: Any = Experiment(space, Fit(1), strategy, directory=tmp_path / str(weight))
        experiment.run()
        found[weight] = experiment.search.ranking
        values = [value for value, _ in found[weight]]
        assert values == sorted(values, reverse=True)
        with experiment.search.supernet.mixture_kept():
            assert experiment.search.worth(0.5, found[weight][0][1]) == pytest.approx(
                math.exp(-0.5) + weight * abs(params(found[weight][0][1]) / target - 1)
            )
    costs = [params(arch) for _, arch in found[-1e3]]
    assert costs == sorted(costs, key=lambda cost: abs(cost / target - 1))
    with pytest.raises(SpaceError, match="has mode='min'"):
        RandomOneShot(reward=CostReward("params", 1.0), metric="val_loss", mode="min")
    with pytest.raises(SpaceError, match="must be a CostReward"):
        RandomOneShot(reward=1.0)  # type: ignore[arg-type]
