"""`ClassificationModule`: losses, metrics, and subclasses as users of NNI write them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from spacelang.errors import SpaceError
from spacelang.evaluators import Classification, ClassificationModule, Lightning, Trainer

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")

IMAGES = torch.linspace(-1, 1, 5 * 64).view(5, 1, 8, 8)
LABELS = torch.tensor([1, 0, 9, 3, 3])


class Logits(nn.Module):
    """Return fixed logits whose largest are 1, 0, 9, 0, 0: three of the five labels."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(5, 10))
        with torch.no_grad():
            for row, column in enumerate([1, 0, 9, 0, 0]):
                self.table[row, column] = 2.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.table


def logged(module: ClassificationModule, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Collect what a module outside a Trainer logs."""
    values: dict[str, float] = {}
    monkeypatch.setattr(
        module, "log_dict", lambda d, **kw: values.update({k: float(v) for k, v in d.items()})
    )
    return values


def test_loss_and_accuracy_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ClassificationModule()
    module.set_model(Logits())
    values = logged(module, monkeypatch)
    total = torch.tensor(2.0).exp() + 9
    right, wrong = total.log() - 2, total.log()
    loss = module.training_step((IMAGES, LABELS), 0)
    assert float(loss.detach()) == pytest.approx(float(3 * right + 2 * wrong) / 5)
    module.validation_step((IMAGES, LABELS), 0)
    module.test_step((IMAGES, LABELS), 0)
    expected = {f"{stage}_{name}" for stage in ("train", "val", "test") for name in ("loss", "acc")}
    assert values.keys() == expected
    for stage in ("train", "val", "test"):
        assert values[f"{stage}_acc"] == pytest.approx(0.6)
        assert values[f"{stage}_loss"] == pytest.approx(float(loss.detach()))


def test_label_smoothing_is_for_training_only(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ClassificationModule(label_smoothing=0.1)
    module.set_model(Logits())
    values = logged(module, monkeypatch)
    module.training_step((IMAGES, LABELS), 0)
    module.validation_step((IMAGES, LABELS), 0)
    table = module.model.table.detach()
    assert values["train_loss"] == pytest.approx(
        float(nn.functional.cross_entropy(table, LABELS, label_smoothing=0.1))
    )
    assert values["val_loss"] == pytest.approx(float(nn.functional.cross_entropy(table, LABELS)))
    assert values["train_loss"] != pytest.approx(values["val_loss"], abs=1e-3)


@pytest.mark.filterwarnings("ignore:.*self.log.*")
def test_a_search_step_outside_the_training_loop() -> None:
    module = ClassificationModule()
    module.set_model(Logits())
    loss = module.training_step((IMAGES, LABELS), 0)
    (gradient,) = torch.autograd.grad(loss, module.model.table)
    assert gradient.abs().sum() > 0
    assert module.model.table.grad is None


@pytest.mark.slow
def test_a_search_step_leaves_no_trace_in_the_training_metrics(data, quiet, make_net: Callable) -> None:
    """A callback that runs training_step on validation batches with the log suppressed changes no metric."""
    from lightning.pytorch import Callback

    class Search(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            log_dict, pl_module.log_dict = pl_module.log_dict, lambda *a, **k: None
            state = torch.get_rng_state()
            pl_module.training_step(next(iter(data["val_dataloaders"])), 0)
            torch.set_rng_state(state)
            pl_module.log_dict = log_dict

    def metrics(callbacks: list[Callback]) -> dict[str, float]:
        net = make_net()
        torch.manual_seed(1)
        trainer = Classification(max_epochs=1, **data, **quiet).fit(net, callbacks=callbacks)
        return {name: float(value) for name, value in trainer.callback_metrics.items()}

    assert metrics([Search()]) == metrics([])
    assert metrics([]).keys() == {"train_loss", "train_acc", "val_loss", "val_acc"}


def test_criterion_as_class_module_or_function(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = []
    for criterion in (nn.CrossEntropyLoss, nn.CrossEntropyLoss(), nn.functional.cross_entropy, None):
        module = ClassificationModule(criterion=criterion)
        module.set_model(Logits())
        logged(module, monkeypatch)
        losses.append(module.training_step((IMAGES, LABELS), 0).item())
    assert len(set(losses)) == 1


def test_optimizer_arguments() -> None:
    module = ClassificationModule(learning_rate=0.3, weight_decay=0.02, optimizer=torch.optim.SGD)
    module.set_model(Logits())
    optimizer = module.configure_optimizers()
    assert type(optimizer) is torch.optim.SGD
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.3, 0.02)
    assert [id(p) for p in group["params"]] == [id(module.model.table)]
    assert type(_with_model(ClassificationModule()).configure_optimizers()) is torch.optim.Adam


def _with_model(module: ClassificationModule) -> ClassificationModule:
    module.set_model(Logits())
    return module


def test_wrong_outputs_are_named() -> None:
    def step(output: object, **arguments: object) -> None:
        class Fixed(nn.Module):
            def forward(self, x):
                return output

        module = ClassificationModule(**arguments)
        module.set_model(Fixed())
        module.training_step((IMAGES, LABELS), 0)

    with pytest.raises(SpaceError, match=r"returned shape \(5, 10\); expected \(batch, 7\)"):
        step(torch.zeros(5, 10), num_classes=7)
    with pytest.raises(SpaceError, match=r"returned shape \(5, 10, 1\); expected \(batch, classes\)"):
        step(torch.zeros(5, 10, 1))
    with pytest.raises(SpaceError, match=r"returned a tuple.*DartsTrainingModule"):
        step((torch.zeros(5, 10), torch.zeros(5, 10)))
    with pytest.raises(SpaceError, match="call set_model"):
        ClassificationModule()(IMAGES)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"learning_rate": 0}, "learning_rate=0 must be a number above 0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"weight_decay": -1}, "weight_decay=-1"),
        ({"label_smoothing": 1.0}, "label_smoothing=1.0"),
        ({"num_classes": 0}, "num_classes=0"),
        ({"criterion": 3}, "criterion=3 must be a loss"),
        ({"criterion": nn.CrossEntropyLoss, "label_smoothing": 0.1}, "smooth in the criterion"),
        ({"export_onnx": True}, "spacelang.export_onnx"),
    ],
)
def test_values_out_of_range(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(SpaceError, match=words):
        Classification(**arguments)


class TutorialModule(ClassificationModule):
    """A subclass with the shape that users of NNI write for DARTS: attributes first, then the base class."""

    def __init__(
        self,
        learning_rate: float = 0.001,
        weight_decay: float = 0.0,
        auxiliary_loss_weight: float = 0.4,
        max_epochs: int = 600,
    ) -> None:
        self.auxiliary_loss_weight = auxiliary_loss_weight
        self.max_epochs = max_epochs
        super().__init__(
            learning_rate=learning_rate, weight_decay=weight_decay, export_onnx=False, num_classes=10
        )

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(
            self.parameters(),
            momentum=0.9,
            lr=self.hparams.learning_rate,
            weight_decay=self.hparams.weight_decay,
        )
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.max_epochs, eta_min=1e-3)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def training_step(self, batch, batch_idx):
        x, y = batch
        if self.auxiliary_loss_weight:
            y_hat, y_aux = self(x)
            loss = self.criterion(y_hat, y) + self.auxiliary_loss_weight * self.criterion(y_aux, y)
        else:
            y_hat = self(x)
            loss = self.criterion(y_hat, y)
        self.log("train_loss", loss, prog_bar=True)
        for name, metric in self.metrics.items():
            self.log("train_" + name, metric(y_hat, y), prog_bar=True)
        return loss

    def on_train_epoch_start(self):
        self.model.set_drop_path_prob(self.model.drop_path_prob * self.current_epoch / self.max_epochs)
        self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"])


@pytest.mark.slow
@pytest.mark.parametrize("weight", [0.0, 0.4])
def test_a_subclass_in_the_style_of_the_nni_tutorial(data, quiet, make_net: Callable, weight: float) -> None:
    net = make_net(auxiliary=weight > 0)
    evaluator = Lightning(
        TutorialModule(0.025, 3e-4, weight, 2), Trainer(max_epochs=2, gradient_clip_val=5.0, **quiet), **data
    )
    torch.manual_seed(1)
    trainer = evaluator.fit(net)
    assert trainer.lightning_module.hparams.learning_rate == 0.025
    assert trainer.lightning_module.hparams.weight_decay == 3e-4
    assert float(trainer.callback_metrics["lr"]) == pytest.approx(0.013)
    assert float(trainer.callback_metrics["val_acc"]) > 0.4  # by chance 0.1
    assert len(net.drop_path_calls) == 2
