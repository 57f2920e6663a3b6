"""The search callback: what one step computes, and that the Trainer's own features keep working."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from spacelang import InputChoice, LayerChoice, ModelSpace, SpaceError, Supernet, value_choice
from spacelang import nn as space_nn
from spacelang.strategies import DARTS
from spacelang.strategies.framework import FirstOrder, Step, Training


class TwoSlopes(ModelSpace):
    """y = p0 * w x + p1 * 2 w x: small enough to differentiate by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Linear(1, 1, bias=False)
        self.layer = LayerChoice({"once": nn.Identity(), "twice": Doubling()}, label="layer")
        self.reached = True

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.weight(x))


class Doubling(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class Regression(pl.LightningModule):
    """Squared error; records which batches and mixtures its training_step saw."""

    def __init__(self, model: nn.Module, learning_rate: float = 0.1) -> None:
        super().__init__()
        self.model = model
        self.learning_rate = learning_rate
        self.seen: list[tuple[float, bool]] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        weights = self.model.groups["layer"].weights
        self.seen.append((x.flatten()[0].item(), weights.requires_grad))
        loss = nn.functional.mse_loss(self.model(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_loss", nn.functional.mse_loss(self.model(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.learning_rate)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]


def loader(values: list[float], target: float, batch_size: int = 1) -> DataLoader[Any]:
    x = torch.tensor(values).reshape(-1, 1)
    return DataLoader(TensorDataset(x, torch.full_like(x, target)), batch_size=batch_size)


def quiet_trainer(tmp_path: Path, *callbacks: pl.Callback, **settings: Any) -> pl.Trainer:
    defaults = {"logger": False, "enable_checkpointing": False, "max_epochs": 1}
    return pl.Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        **(defaults | settings),
    )


def searched(
    tmp_path: Path,
    strategy: DARTS,
    train: list[float],
    val: list[float],
    *,
    weight: float = 0.5,
    **trainer: Any,
) -> tuple[Any, Regression, pl.Trainer]:
    supernet = Supernet(TwoSlopes())
    with torch.no_grad():
        supernet.network.weight.weight.fill_(weight)
    search = strategy.attach(supernet, seed=0)
    module = Regression(supernet)
    runner = quiet_trainer(tmp_path, search, num_sanity_val_steps=0, **trainer)
    runner.fit(module, loader(train, 1.0), loader(val, 2.0))
    return search, module, runner


def test_the_logits_step_before_the_weights_and_each_on_its_own_batch(tmp_path: Path) -> None:
    """Worked by hand: x = 3, t = 2 for the logits; then x = 1, t = 1 for the weight."""
    search, module, _ = searched(tmp_path, DARTS(init_scale=0, weight_decay=0), train=[1.0], val=[3.0])
    # Architecture: w = .5, p = (.5, .5), y = w x (p0 + 2 p1) = 2.25, loss (y - 2)^2,
    # dL/dp = 2 (y - 2) w x (1, 2) = (.75, 1.5); dL/dalpha_k = p_k (g_k - sum p g) = (-.1875, .1875).
    moments = search.state_dict()["moments"]["layer"]
    assert moments["exp_avg"][0].tolist() == pytest.approx([-0.1875 / 2, 0.1875 / 2])  # beta1 = .5
    # Adam's first step has the size of the learning rate.
    alpha = search.parameters.logits["layer"][0].tolist()
    assert alpha == pytest.approx([3e-4, -3e-4], rel=1e-6)
    # Weight: slope s = p0 + 2 p1 with the stepped logits; w <- w - .1 * 2 (w s - 1) s.
    p1 = 1 / (1 + math.exp(6e-4))
    slope = 1 + p1
    expected = 0.5 - 0.1 * 2 * (0.5 * slope - 1) * slope
    assert module.model.network.weight.weight.item() == pytest.approx(expected, rel=1e-6)
    # First the validation batch, with logits in the graph; then the training batch, without.
    assert module.seen == [(3.0, True), (1.0, False)]


def test_the_weights_may_step_first(tmp_path: Path) -> None:
    """Worked by hand: x = 1, t = 1 for the weight; then x = 3, t = 2 for the logits."""
    strategy = DARTS(init_scale=0, weight_decay=0, weights_first=True)
    search, module, _ = searched(tmp_path, strategy, train=[1.0], val=[3.0])
    # w = .5 - .1 * 2 (.75 - 1) 1.5 = .575; then y = .575 * 3 * 1.5 = 2.5875, dL/dp = 2 (y - 2) 1.725 (1, 2).
    assert module.model.network.weight.weight.item() == pytest.approx(0.575, rel=1e-6)
    moments = search.state_dict()["moments"]["layer"]
    assert moments["exp_avg"][0].tolist() == pytest.approx([-0.50671875 / 2, 0.50671875 / 2], rel=1e-5)
    assert module.seen == [(1.0, False), (3.0, True)]
    rare = DARTS(weights_first=True, update_every=2)
    _, module, _ = searched(tmp_path, rare, train=[1.0, 1.5, 2.0, 2.5, 2.75], val=[3.0])
    assert [x for x, _ in module.seen] == [1.0, 1.5, 3.0, 2.0, 2.5, 3.0, 2.75]
    _, module, _ = searched(
        tmp_path, replace(rare, update_every=1), [1.0, 1.5, 2.0, 2.5], [3.0], accumulate_grad_batches=2
    )
    assert [x for x, _ in module.seen] == [1.0, 1.5, 3.0, 3.0, 2.0, 2.5, 3.0, 3.0]
    with pytest.raises(SpaceError, match="order=2 looks through the coming step of the weights"):
        DARTS(order=2, weights_first=True)


def test_weight_decay_pulls_logits_to_the_uniform_mixture(tmp_path: Path) -> None:
    search, _, _ = searched(
        tmp_path, DARTS(init_scale=1.0, weight_decay=1e3, learning_rate=0.1), train=[1.0] * 40, val=[3.0]
    )
    assert search.parameters.logits["layer"].abs().max() < 0.1
    start = DARTS(init_scale=1.0).attach(Supernet(TwoSlopes()), seed=0).parameters.logits["layer"]
    assert start.abs().max() > 0.3


def test_weights_get_no_gradient_from_the_architecture_step(tmp_path: Path) -> None:
    class Watch(pl.Callback):
        def on_before_zero_grad(self, trainer: Any, module: Any, optimizer: Any) -> None:
            # Between the architecture step and the weights' backward pass.
            gradients.append(module.model.network.weight.weight.grad)

    gradients: list[Any] = []
    supernet = Supernet(TwoSlopes())
    search = DARTS().attach(supernet)
    trainer = quiet_trainer(tmp_path, search, Watch())
    module = Regression(supernet)
    trainer.fit(module, loader([1.0], 1.0), loader([3.0], 2.0))
    assert gradients == [None]
    assert search.parameters.logits["layer"].grad is None


def test_architecture_parameters_are_not_the_modules(tmp_path: Path) -> None:
    supernet = Supernet(TwoSlopes())
    search = DARTS().attach(supernet)
    own = {id(p) for p in search.parameters.logits.values()}
    assert own.isdisjoint(id(p) for p in Regression(supernet).parameters())


def test_warmup_trains_weights_alone(tmp_path: Path) -> None:
    search, module, _ = searched(tmp_path, DARTS(warmup_epochs=2), [1.0, 2.0], [3.0], max_epochs=3)
    assert [requires_grad for _, requires_grad in module.seen] == [False] * 4 + [True, False] * 2
    assert len(search.history["layer"]) == 3
    assert torch.equal(search.history["layer"][0], search.history["layer"][1])
    assert not torch.equal(search.history["layer"][1], search.history["layer"][2])


def test_validation_batches_are_cycled(tmp_path: Path) -> None:
    _, module, _ = searched(tmp_path, DARTS(), [1.0, 2.0, 4.0], [3.0, 5.0])
    assert [x for x, requires_grad in module.seen if requires_grad] == [3.0, 5.0, 3.0]


def test_epochs_without_validation_have_validation_batches(tmp_path: Path) -> None:
    _, module, _ = searched(tmp_path, DARTS(), [1.0], [3.0], max_epochs=2, check_val_every_n_epoch=2)
    assert [x for x, requires_grad in module.seen if requires_grad] == [3.0, 3.0]


def test_accumulation_averages_over_as_many_validation_batches(tmp_path: Path) -> None:
    strategy = DARTS(init_scale=0, weight_decay=0)
    search, module, trainer = searched(tmp_path, strategy, [1.0, 2.0], [3.0, 1.0], accumulate_grad_batches=2)
    assert trainer.global_step == 1
    assert module.seen == [(3.0, True), (1.0, True), (1.0, False), (2.0, False)]
    # Second batch: y = .75, dL/dp = 2 (-1.25) .5 (1, 2) = (-1.25, -2.5), dL/dalpha = (.3125, -.3125).
    mean = (-0.1875 + 0.3125) / 2
    moments = search.state_dict()["moments"]["layer"]
    assert moments["exp_avg"][0].tolist() == pytest.approx([mean / 2, -mean / 2])


def test_clipping_and_schedules_are_the_users(tmp_path: Path) -> None:
    _, module, trainer = searched(
        tmp_path, DARTS(), [10.0], [3.0], max_epochs=2, gradient_clip_val=0.01, gradient_clip_algorithm="norm"
    )
    # Every weight step has the clipped length: lr * .01, lr halved after the first epoch.
    moved = abs(module.model.network.weight.weight.item() - 0.5)
    assert moved == pytest.approx(0.1 * 0.01 + 0.05 * 0.01, rel=1e-4)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.025)


def test_bf16_precision(tmp_path: Path) -> None:
    search, _, _ = searched(tmp_path, DARTS(), [1.0, 2.0], [3.0], precision="bf16-mixed")
    assert search.parameters.logits["layer"].dtype == torch.float32
    assert search.parameters.logits["layer"].isfinite().all()
    assert search.state_dict()["moments"]["layer"]["step"].item() == 2


def test_probabilities_reach_every_logger(tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

    loggers = [CSVLogger(tmp_path, name="csv"), TensorBoardLogger(tmp_path, name="board")]
    search, _, _ = searched(
        tmp_path, DARTS(), [1.0], [3.0], logger=loggers, max_epochs=2, log_every_n_steps=1
    )
    rows = (tmp_path / "csv" / "version_0" / "metrics.csv").read_text().splitlines()
    header = rows[0].split(",")
    assert {"alpha/layer/once", "alpha/layer/twice", "train_loss", "val_loss"} <= set(header)
    logged = [float(row.split(",")[header.index("alpha/layer/once")] or "nan") for row in rows[1:]]
    recorded = [table[0, 0].item() for table in search.history["layer"]]
    assert [value for value in logged if not math.isnan(value)] == pytest.approx(recorded)

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "board" / "version_0")).Reload()
    assert [event.value for event in events.Scalars("alpha/layer/once")] == pytest.approx(recorded)


def test_the_search_batch_logs_nothing(tmp_path: Path) -> None:
    _, _, trainer = searched(tmp_path, DARTS(), [1.0], [3.0])
    # train_loss is the training batch's, (w s - 1)^2 at s = 1.5 up to the logits' small step.
    assert trainer.callback_metrics["train_loss"].item() == pytest.approx(0.0625, rel=1e-2)


def test_state_survives_by_label(tmp_path: Path) -> None:
    search, _, _ = searched(tmp_path, DARTS(), [1.0, 2.0], [3.0])
    other = DARTS().attach(Supernet(TwoSlopes()), seed=9)
    other.load_state_dict(search.state_dict())
    assert torch.equal(other.parameters.logits["layer"], search.parameters.logits["layer"])
    assert str(other.state_dict()) == str(search.state_dict())
    assert other.derive() == search.derive()


def test_state_of_another_space_is_refused() -> None:
    class Other(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.layer = LayerChoice([nn.Identity(), nn.ReLU(), nn.Tanh()], label="layer")

    state = DARTS().attach(Supernet(TwoSlopes())).state_dict()
    with pytest.raises(SpaceError, match="of another space"):
        DARTS().attach(Supernet(Other())).load_state_dict(state)


def test_the_same_seed_gives_the_same_search(tmp_path: Path) -> None:
    a, _, _ = searched(tmp_path, DARTS(), [1.0, 2.0], [3.0])
    b, _, _ = searched(tmp_path, DARTS(), [1.0, 2.0], [3.0])
    assert torch.equal(a.parameters.logits["layer"], b.parameters.logits["layer"])


def test_missing_validation_batches_are_named(tmp_path: Path) -> None:
    supernet = Supernet(TwoSlopes())
    trainer = quiet_trainer(tmp_path, DARTS().attach(supernet))
    with pytest.raises(SpaceError, match="needs validation batches"):
        trainer.fit(Regression(supernet), loader([1.0], 1.0))


def test_manual_optimisation_is_refused(tmp_path: Path) -> None:
    supernet = Supernet(TwoSlopes())
    module = Regression(supernet)
    module.automatic_optimization = False
    trainer = quiet_trainer(tmp_path, DARTS().attach(supernet))
    with pytest.raises(SpaceError, match="optimises manually"):
        trainer.fit(module, loader([1.0], 1.0), loader([3.0], 2.0))


def test_a_module_without_the_supernet_is_refused(tmp_path: Path) -> None:
    search = DARTS().attach(Supernet(TwoSlopes()))
    trainer = quiet_trainer(tmp_path, search)
    with pytest.raises(SpaceError, match="does not contain the supernet"):
        trainer.fit(Regression(Supernet(TwoSlopes())), loader([1.0], 1.0), loader([3.0], 2.0))


def test_what_cannot_be_mixed_is_refused_before_training() -> None:
    class Unmixable(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.pool = space_nn.MaxPool2d(3, stride=value_choice([1, 2], label="stride"))
            self.inputs = InputChoice(3, 2, "concat", label="inputs")

    class Unread(TwoSlopes):
        def __init__(self) -> None:
            super().__init__()
            self.rate = value_choice([0.1, 0.2], label="rate")

    for space, labels in ((Unmixable(), ("'stride'", "'inputs'")), (Unread(), ("'rate'",))):
        with pytest.raises(SpaceError) as error:
            DARTS().attach(Supernet(space))
        assert all(label in str(error.value) for label in labels)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"warmup_epochs": -1}, "warmup_epochs=-1"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        DARTS(**settings)


def test_the_architecture_step_computes_no_weight_gradient() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Masks(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten.convolution_backward.default:
                masks.append(list(args[-1]))  # gradients asked for: of input, weight, bias
            return func(*args, **(kwargs or {}))

    class Two(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(1, 2, 3)
            self.layer = LayerChoice([nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3)], label="layer")
            self.last = nn.Conv2d(2, 1, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.layer(self.stem(x)))

    supernet = Supernet(Two())
    logits = nn.Parameter(torch.zeros(1, 2))

    def loss() -> Tensor:
        supernet.set_mixture({"layer": logits.softmax(dim=1)})
        return supernet(torch.randn(2, 1, 9, 9)).square().mean()

    masks: list[list[bool]] = []
    with Masks():
        (gradient,) = FirstOrder().gradients(Step([logits], loss, loss, supernet, []))
    assert gradient is not None
    assert masks == [[True, False, False]]  # of the last layer alone, on the way to the mixture
    masks.clear()
    with Masks():
        loss().backward()
    assert len(masks) == 4
    assert all(mask[1] for mask in masks)


def test_weights_are_constants_in_a_step_of_the_logits() -> None:
    module, logits = nn.Linear(2, 1), nn.Parameter(torch.ones(2))
    module.bias.requires_grad_(False)
    seen: list[list[bool]] = []

    def loss() -> Tensor:
        seen.append([p.requires_grad for p in module.parameters()])
        return module(logits).sum()

    (gradient,) = FirstOrder().gradients(Step([logits], loss, loss, module, []))
    assert torch.equal(gradient, module.weight[0])
    assert FirstOrder().gradients(Step([logits], loss, lambda: module(torch.ones(2)), module, [])) == [None]
    assert seen == [[False, False]]
    assert [p.requires_grad for p in module.parameters()] == [True, False]


# -- a strategy's own terms, and logits that rest ------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Pulled(DARTS):
    """Adds 5 * alpha_0 to the logits' loss and 7 * w to the weights'."""

    def objective(self, loss: Tensor, search: Any, phase: str) -> Tensor:
        if self.order == 1:
            assert search.parameters.logits["layer"].requires_grad == (phase == "logits")
        if phase == "logits":
            return loss + 5 * search.parameters.logits["layer"][0, 0]
        return loss + 7 * search.supernet.network.weight.weight.sum()


def test_a_strategy_adds_terms_to_both_steps(tmp_path: Path) -> None:
    """The step worked by hand above, with 5 on the first logit and 7 on the weight."""
    search, module, _ = searched(tmp_path, Pulled(init_scale=0, weight_decay=0), train=[1.0], val=[3.0])
    moments = search.state_dict()["moments"]["layer"]
    assert moments["exp_avg"][0].tolist() == pytest.approx([(-0.1875 + 5) / 2, 0.1875 / 2])
    p1 = search.probabilities()["layer"][0, 1].item()
    slope = 1 + p1
    expected = 0.5 - 0.1 * (2 * (0.5 * slope - 1) * slope + 7)
    assert module.model.network.weight.weight.item() == pytest.approx(expected, rel=1e-6)
    assert "training_step" not in vars(module)  # the module is as it was


def test_the_second_order_unrolls_the_weights_own_term(tmp_path: Path) -> None:
    """w' = w - xi (dL_train/dw + 7), and the gradient at w' has 5 on the first logit.

    At alpha = 0: slope 1.5, dL_train/dw = 2 (.75 - 1) 1.5 = -.75, so w' = .5 - .1 (6.25) = -.125.
    First part at x = 3, y = 2: r = -.5625 - 2, dL/dp = 2 r w' x (1, 2), times p (g - sum p g).
    """
    strategy = Pulled(order=2, init_scale=0, weight_decay=0)
    search, _, _ = searched(tmp_path, strategy, train=[1.0], val=[3.0])
    w, xi, x = -0.125, 0.1, 3.0
    g = 2 * (w * x * 1.5 - 2) * w * x
    first = [0.5 * (g - 1.5 * g), 0.5 * (2 * g - 1.5 * g)]
    # d^2 L_train / (d alpha d w) at w = .5, x = 1, y = 1: d/dw of 2 (w s - 1) w, times the same factors.
    mixed = 2 * (2 * 0.5 * 1.5 - 1)
    v = 2 * (w * x * 1.5 - 2) * x * 1.5  # dL_val / dw'
    second = [0.5 * (mixed - 1.5 * mixed), 0.5 * (2 * mixed - 1.5 * mixed)]
    expected = [5 + first[0] - xi * second[0] * v, first[1] - xi * second[1] * v]
    found = search.state_dict()["moments"]["layer"]["exp_avg"][0].tolist()
    assert found == pytest.approx([e / 2 for e in expected], rel=1e-5)


@dataclass(frozen=True, kw_only=True)
class Resting(DARTS):
    """Leaves the logits alone after the first two steps."""

    @property
    def update(self) -> Any:
        return UntilTwo(self)


class UntilTwo:
    steps: ClassVar[dict[int, int]] = {}

    def __init__(self, strategy: Resting) -> None:
        self.key = id(strategy)

    def gradients(self, step: Any) -> Any:
        self.steps[self.key] = self.steps.get(self.key, 0) + 1
        if self.steps[self.key] > 2:
            return [None] * len(step.logits)
        return torch.autograd.grad(step.val_loss(), step.logits)


def test_logits_without_a_gradient_rest(tmp_path: Path) -> None:
    """Neither momentum nor weight decay moves them, and their moments stay as they are."""
    settings = {"init_scale": 1.0, "weight_decay": 1.0, "learning_rate": 0.1}
    two, _, _ = searched(tmp_path, Resting(**settings), train=[1.0] * 2, val=[3.0])
    many, _, _ = searched(tmp_path, Resting(**settings), train=[1.0] * 6, val=[3.0])
    assert torch.equal(two.parameters.logits["layer"], many.parameters.logits["layer"])
    before, after = (search.state_dict()["moments"]["layer"] for search in (two, many))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert before["step"] == 2


def test_processes_agree_on_which_logits_rest() -> None:
    """A process without a gradient counts zeros where another has one; None is left where none has."""
    theirs = iter([torch.tensor([1.0, 0.0, 0.0]), torch.full((2,), 6.0), torch.zeros(2)])
    trainer: Any = SimpleNamespace(
        world_size=2, strategy=SimpleNamespace(reduce=lambda t, reduce_op: (t + next(theirs)) / 2)
    )
    training = Training(trainer, Regression(Supernet(TwoSlopes())))
    means = training.mean_where_any([None, torch.ones(2), None], [torch.zeros(2)] * 3)
    assert [None if m is None else m.tolist() for m in means] == [[3, 3], [0.5, 0.5], None]
