"""`Regression`: losses and metrics in closed form, shapes that do not fit, searches for a known line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from sklearn.metrics import r2_score
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from spacelang import Experiment, LayerChoice, ModelSpace, value_choice
from spacelang.errors import SpaceError
from spacelang.evaluators import Lightning, Regression, RegressionModule
from spacelang.evaluators.training.regression import R2
from spacelang.quiet import captured_log
from spacelang.strategies import DARTS, RandomOneShot
from spacelang.strategies.multi_trial import Grid
from spacelang.trials import Minimize

from ..toys.trials import Scale

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")

X = torch.linspace(-1, 1, 12).view(12, 1)
Y = torch.tensor([3.0, -1, 4, 1, -5, 9, 2, -6, 5, 3, 5, 8])


def zeros(outputs: int = 1) -> nn.Linear:
    """A model that predicts 0."""
    layer = nn.Linear(1, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def loader(*tensors: Tensor, batch_size: int = 5) -> DataLoader[Any]:
    """Batches of 5, 5 and 2 of the twelve samples."""
    return DataLoader(TensorDataset(*tensors), batch_size=batch_size)


def data(x: Tensor = X, y: Tensor = Y, batch_size: int = 5) -> dict[str, Any]:
    batches = loader(x, y, batch_size=batch_size)
    return {"train_dataloaders": batches, "val_dataloaders": batches}


def with_model(module: RegressionModule, model: nn.Module) -> RegressionModule:
    module.set_model(model)
    return module


# ---- what it measures


def test_zero_predictions_by_hand(quiet: Any) -> None:
    metrics = Regression(**data(), **quiet).validate(zeros())
    assert metrics == pytest.approx(
        {
            "val_loss": float(Y.square().mean()),
            "val_mse": float(Y.square().mean()),
            "val_mae": float(Y.abs().mean()),
            "val_r2": -float(Y.mean() ** 2 / Y.var(correction=0)),
        }
    )
    test = Regression(**quiet).test(zeros(), loader(X, Y))
    assert test == pytest.approx({name.replace("val", "test"): value for name, value in metrics.items()})


def test_training_starts_from_the_closed_form_and_ends_in_least_squares(quiet: Any) -> None:
    model = zeros()
    evaluator = Regression(
        learning_rate=0.5, optimizer=torch.optim.SGD, max_epochs=1, **data(batch_size=12), **quiet
    )
    trainer = evaluator.fit(model)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert logged["train_loss"] == logged["train_mse"] == pytest.approx(float(Y.square().mean()))
    assert logged["train_mae"] == pytest.approx(float(Y.abs().mean()))
    assert "train_r2" not in logged

    # X has the mean 0, so the gradient steps of weight and bias are apart: w - 0.5 * 2 (w X'X/n - X'Y/n).
    assert model.weight.item() == pytest.approx(float((X[:, 0] * Y).mean()), rel=1e-5)
    assert model.bias.item() == pytest.approx(float(Y.mean()), rel=1e-5)


def test_the_criterion_is_exchangeable(quiet: Any) -> None:
    for criterion in (nn.L1Loss, nn.L1Loss(), nn.functional.l1_loss):
        metrics = Regression(criterion, **data(), **quiet).validate(zeros())
        assert metrics["val_loss"] == metrics["val_mae"] == pytest.approx(float(Y.abs().mean()))
        assert metrics["val_mse"] == pytest.approx(float(Y.square().mean()))


# ---- what fits, and what does not


@pytest.mark.parametrize("y", [Y, Y[:, None], Y.double(), Y.long()[:, None]], ids=["B", "B1", "f64", "long"])
def test_targets_of_one_number(y: Tensor) -> None:
    module = with_model(RegressionModule(), zeros())
    with captured_log(module):
        loss = module.training_step((X, y), 0)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(Y.square().mean()))
    assert float(module.model.bias.grad) == pytest.approx(-2 * float(Y.mean()))  # no gradient of (B, B) pairs


@pytest.mark.parametrize(
    ("shape", "of_targets"),
    [((12,), (12, 1)), ((12, 1), (12,)), ((4, 3, 1), (4, 3)), ((3, 4), (3, 4)), ((12, 1), (12, 1))],
)
def test_a_last_dimension_of_one_fits(shape: Any, of_targets: Any) -> None:
    output, targets = RegressionModule().compared(Y.view(shape), Y.view(of_targets))
    assert torch.equal(output, targets)
    assert targets.shape == of_targets


def test_a_batch_of_one_that_the_model_squeezed(quiet: Any) -> None:
    class Squeezed(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).squeeze()

    evaluator = Regression(learning_rate=1e-9, max_epochs=1, **data(batch_size=11), **quiet)
    assert evaluator.evaluate(Squeezed(1, 1)).keys() == {"val_loss", "val_mse", "val_mae", "val_r2"}


def test_half_precision_is_compared_in_single() -> None:
    output, targets = RegressionModule().compared(Y.bfloat16(), Y.bfloat16())
    assert output.dtype == targets.dtype == torch.float32
    assert RegressionModule().compared(Y.double(), Y)[1].dtype == torch.float64


@pytest.mark.parametrize(
    ("outputs", "y", "words"),
    [
        (2, Y, r"returned shape \(12, 2\) for targets of shape \(12,\); expected one shape.*last layer"),
        (1, Y.view(4, 3), r"\(12, 1\) for targets of shape \(4, 3\)"),
        (12, Y[None], r"\(12, 12\) for targets of shape \(1, 12\)"),
        (1, [1.0], r"a tensor of shape \(12, 1\), torch.float32 for a list of 1; expected two tensors"),
    ],
)
def test_shapes_that_do_not_fit(outputs: int, y: Any, words: str) -> None:
    module = with_model(RegressionModule(), zeros(outputs))
    with pytest.raises(SpaceError, match=words):
        module.training_step((X, y), 0)


def test_batches_that_are_no_pairs() -> None:
    module = with_model(RegressionModule(), zeros())
    with pytest.raises(SpaceError, match=r"a batch is a tensor of shape \(12, 1\).*pair \(inputs, targets\)"):
        module.training_step(X, 0)
    with pytest.raises(SpaceError, match=r"a batch is a list of 3.*collate_fn"):
        module.training_step([X, Y, Y], 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"learning_rate": 0}, "learning_rate=0 must be a number above 0"),
        (
            {"weight_decay": -value_choice([0.1, 0.2], label="wd")},
            "weight_decay=-0.1 must be a number of",
        ),
        ({"criterion": 3}, r"criterion=3 must be a loss of \(output, targets\)"),
        ({"export_onnx": True}, "spacelang.export_onnx"),
        ({"max_epoch": 3}, "Closest: 'max_epochs'"),
    ],
)
def test_values_out_of_range(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(SpaceError, match=words):
        Regression(**arguments)


# ---- R^2


def r2(*batches: tuple[Tensor, Tensor]) -> R2:
    metric = R2()
    for batch in batches:
        metric.update(*batch)
    return metric


@pytest.mark.parametrize(
    ("mean", "scale", "shape"), [(0, 1, ()), (1e4, 1, ()), (0, 1e-3, (1,)), (5, 2, (3,)), (0, 1, (2, 2))]
)
def test_r2_is_scikit_learns_whatever_the_batches(mean: float, scale: float, shape: tuple[int, ...]) -> None:
    """Also where torchmetrics' `R2Score` gives 1.01 (mean 1e4) or 0 (scale 1e-3)."""
    rng = torch.Generator().manual_seed(0)
    y = mean + scale * torch.randn(64, *shape, generator=rng)
    output = y + scale * torch.randn(64, *shape, generator=rng) / 2
    expected = r2_score(y.double().reshape(64, -1), output.double().reshape(64, -1))
    for sizes in ([64], [1, 3, 60], [16] * 4):
        batches = zip(output.split(sizes), y.split(sizes), strict=True)
        assert float(r2(*batches).compute()) == pytest.approx(expected, rel=1e-4)


def test_r2_at_its_edges() -> None:
    constant = torch.full((4,), 3.0)
    assert float(r2((constant, constant)).compute()) == 1
    assert float(r2((constant + 1, constant)).compute()) == 0
    assert float(r2((Y.mean().expand(12), Y)).compute()) == pytest.approx(0, abs=1e-6)
    assert r2((Y[:1], Y[:1])).compute().isnan()


def test_r2_over_processes_is_that_of_all_samples() -> None:
    output = Y.flip(0)
    parts = r2((output[:5], Y[:5])), r2((output[5:], Y[5:]))
    states = [[part.count, part.mean, part.total, part.residual] for part in parts]
    gathered = iter(zip(*states, strict=True))
    parts[0].distributed_available_fn = lambda: True
    parts[0].dist_sync_fn = lambda state, group: list(next(gathered))
    assert float(parts[0].compute()) == pytest.approx(r2_score(Y, output), rel=1e-5)


def test_steps_of_a_search_leave_no_trace_in_the_metrics(quiet: Any) -> None:
    """A search calls the steps between training batches, with the log captured."""

    class Search(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            with captured_log(pl_module), torch.no_grad():
                pl_module.training_step((X, 100 * Y), 0)
                pl_module.validation_step((X, 100 * Y), 0)

    def metrics(callbacks: list[Callback]) -> dict[str, float]:
        trainer = Regression(max_epochs=2, **data(), **quiet).fit(zeros(), callbacks=callbacks)
        return {name: float(value) for name, value in trainer.callback_metrics.items()}

    assert metrics([Search()]) == metrics([])


# ---- searches


class Line(ModelSpace):
    """A slope to choose, and an offset to train."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = LayerChoice({"down": Scale(-1.0), "double": Scale(2.0)}, label="slope")
        self.offset = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.slope(x) + self.offset


def test_darts_finds_the_slope(tmp_path: Path, quiet: Any) -> None:
    evaluator = Regression(max_epochs=3, **data(y=2 * X[:, 0]), **quiet)
    experiment = Experiment(Line(), evaluator, DARTS(learning_rate=0.1), directory=tmp_path / "run", seed=0)
    experiment.run()
    assert experiment.best == {"slope": "double"}


def test_paths_are_compared_by_r2(tmp_path: Path, quiet: Any) -> None:
    evaluator = Regression(learning_rate=1e-9, max_epochs=1, **data(y=2 * X[:, 0]), **quiet)
    strategy = RandomOneShot(metric="val_r2", mode="max", candidates=4, finalists=2)
    experiment = Experiment(Line(), evaluator, strategy, directory=tmp_path / "run", seed=0)
    experiment.run()
    assert experiment.best == {"slope": "double"}
    assert experiment.search.ranking[0][0] == pytest.approx(1)


def test_trials_find_the_slope_together_with_hyper_parameters(tmp_path: Path, quiet: Any) -> None:
    evaluator = Regression(
        learning_rate=value_choice([1e-3, 1e-2], label="lr"), max_epochs=1, **data(y=2 * X[:, 0]), **quiet
    )
    assert evaluator.default_objective == Minimize("val_mse")
    experiment = Experiment(Line(), evaluator, Grid(), max_trials=4, directory=tmp_path / "run", seed=0)
    experiment.run()
    assert experiment.best["slope"] == "double"
    metrics = experiment.pareto[0].metrics
    assert (metrics["val_mse"], metrics["val_mae"], metrics["val_r2"]) == (0, 0, 1)
    rates = evaluator.decided({"lr": 1e-2}).module.hparams
    assert dict(rates) == {"learning_rate": 1e-2, "weight_decay": 0.0}


def test_a_subclass_adds_a_metric(quiet: Any) -> None:
    class Worst(RegressionModule):
        def __init__(self) -> None:
            super().__init__()
            self.metrics["bias"] = lambda output, targets: (output - targets).mean()

    metrics = Lightning(Worst(), **data(), **quiet).validate(zeros())
    assert metrics["val_bias"] == pytest.approx(-float(Y.mean()))
