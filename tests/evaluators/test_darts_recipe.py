"""`DartsTrainingModule`: the schedules and losses of DARTS, against values worked out by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn

from spacelang.errors import SpaceError
from spacelang.evaluators import DartsTrainingModule, Lightning

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")


def with_model(module: DartsTrainingModule, model: nn.Module) -> DartsTrainingModule:
    module.set_model(model)
    return module


def test_cosine_of_the_search(make_net: Callable) -> None:
    """Oracle 1d: .025 -> .001 over 50 epochs."""
    module = with_model(
        DartsTrainingModule(auxiliary_loss_weight=0.0, eta_min=1e-3, max_epochs=50), make_net()
    )
    parts = module.configure_optimizers()
    rates = []
    for _ in range(50):
        rates.append(parts["optimizer"].param_groups[0]["lr"])
        parts["optimizer"].step()
        parts["lr_scheduler"].step()
    found = [rates[epoch] for epoch in (0, 1, 25, 49)]
    assert found == pytest.approx([0.025, 0.0249763207, 0.013, 0.0010236793], abs=5e-11)


def test_optimizer_is_the_papers(make_net: Callable) -> None:
    optimizer = with_model(DartsTrainingModule(), make_net()).configure_optimizers()["optimizer"]
    assert type(optimizer) is torch.optim.SGD
    (group,) = optimizer.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.025, 0.9, 3e-4)
    assert group["nesterov"] is False


class Watch(Callback):
    """Record the learning rate and the drop-path probability of each epoch."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.drop_path: list[float] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if batch_idx == 0:
            self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
            self.drop_path.append(pl_module.model.drop_path_prob)


@pytest.mark.slow
def test_schedules_in_training(data, quiet, make_net: Callable) -> None:
    watch, net = Watch(), make_net(auxiliary=True, drop_path_prob=0.2)
    evaluator = Lightning(
        DartsTrainingModule(max_epochs=4), max_epochs=4, gradient_clip_val=5.0, **data, **quiet
    )
    torch.manual_seed(1)
    trainer = evaluator.fit(net, callbacks=[watch])
    assert watch.drop_path == pytest.approx([0.0, 0.05, 0.1, 0.15])  # 0.2 t / 4, not compounded
    cosine = [0.025 * (1 + c) / 2 for c in (1.0, 0.5**0.5, 0.0, -(0.5**0.5))]
    assert watch.rates == pytest.approx(cosine)
    assert float(trainer.callback_metrics["val_acc"]) > 0.7
    assert net.drop_path_prob == 0.2  # as the model was built, so a second fit starts from it too
    again = Watch()
    evaluator.fit(net, callbacks=[again])
    assert again.drop_path == watch.drop_path


def test_auxiliary_loss_by_hand(make_net: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    net = make_net(auxiliary=True)
    x, y = torch.linspace(-1, 1, 3 * 64).view(3, 1, 8, 8), torch.tensor([4, 0, 9])
    features = net.stem(x)
    main, auxiliary = (
        -head(features).log_softmax(1)[torch.arange(3), y].mean() for head in (net.head, net.auxiliary_head)
    )
    for weight, expected in [(0.4, main + 0.4 * auxiliary), (1.0, main + auxiliary), (0.0, main)]:
        module = with_model(DartsTrainingModule(auxiliary_loss_weight=weight), net)
        monkeypatch.setattr(module, "log_dict", lambda *a, **k: None)
        loss = module.training_step((x, y), 0)
        assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    (gradient,) = torch.autograd.grad(
        with_quiet_step(DartsTrainingModule(), net, x, y, monkeypatch), net.auxiliary_head.weight
    )
    (by_hand,) = torch.autograd.grad(0.4 * auxiliary, net.auxiliary_head.weight)
    torch.testing.assert_close(gradient, by_hand)


def with_quiet_step(module: DartsTrainingModule, net, x, y, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    module.set_model(net)
    monkeypatch.setattr(module, "log_dict", lambda *a, **k: None)
    return module.training_step((x, y), 0)


def test_a_model_without_drop_path_or_auxiliary_head(data, quiet) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    module = DartsTrainingModule(auxiliary_loss_weight=0.0, eta_min=1e-3, max_epochs=2)
    torch.manual_seed(1)
    metrics = Lightning(module, max_epochs=2, **data, **quiet).evaluate(net)
    assert metrics["val_acc"] > 0.7


def test_a_missing_auxiliary_output_is_an_error(data, quiet, make_net: Callable) -> None:
    with pytest.raises(SpaceError, match=r"auxiliary_loss_weight is 0\.4.*auxiliary_loss=True"):
        Lightning(DartsTrainingModule(), max_epochs=1, **data, **quiet).fit(make_net())


def test_a_trainer_that_outlasts_the_schedule_is_warned_of(data, quiet, make_net: Callable) -> None:
    module = DartsTrainingModule(auxiliary_loss_weight=0.0, max_epochs=1)
    with pytest.warns(UserWarning, match=r"runs 2 epochs, but the schedules .* end after 1"):
        Lightning(module, max_epochs=2, **data, **quiet).fit(make_net())


@pytest.mark.parametrize(
    ("name", "value"),
    [("momentum", 1.0), ("auxiliary_loss_weight", -0.1), ("max_epochs", 0), ("eta_min", 0.03)],
)
def test_values_out_of_range(name: str, value: float) -> None:
    with pytest.raises(SpaceError, match=f"{name}={value} must be"):
        DartsTrainingModule(**{name: value})
