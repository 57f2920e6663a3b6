"""`Lightning`: real fits of a tiny network on the digits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from spacelang.errors import SpaceError
from spacelang.evaluators import Classification, ClassificationModule, Lightning

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")


def evaluated(evaluator, net: nn.Module, seed: int = 1, report=None) -> dict[str, float]:
    torch.manual_seed(seed)
    return evaluator.evaluate(net, report)


def weights(net: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in net.parameters()])


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# ---- what evaluate gives


def test_it_learns_and_returns_validation_metrics(data, quiet, make_net: Callable) -> None:
    net = make_net()
    metrics = evaluated(Classification(learning_rate=0.01, max_epochs=2, **data, **quiet), net)
    assert sorted(metrics) == ["val_acc", "val_loss"]
    assert all(type(value) is float for value in metrics.values())
    assert metrics["val_acc"] > 0.7

    net.eval()  # the same numbers, counted by hand on the very model that was given
    with torch.no_grad():
        logits, labels = zip(*((net(x), y) for x, y in data["val_dataloaders"]), strict=True)
    logits, labels = torch.cat(logits), torch.cat(labels)
    assert metrics["val_acc"] == pytest.approx(float((logits.argmax(1) == labels).double().mean()), abs=1e-6)
    assert metrics["val_loss"] == pytest.approx(float(nn.functional.cross_entropy(logits, labels)), rel=1e-5)


def test_same_seed_same_metrics_and_one_evaluator_serves_many_fits(data, quiet, make_net: Callable) -> None:
    evaluator = Classification(max_epochs=1, **data, **quiet)
    first, second, other = (evaluated(evaluator, make_net(), seed) for seed in (1, 1, 2))
    assert first == second != other


def test_report_after_each_validation_epoch(data, quiet, make_net: Callable) -> None:
    seen: list[tuple[dict[str, float], int]] = []
    evaluator = Classification(max_epochs=3, **data, **quiet)
    metrics = evaluated(evaluator, make_net(), report=lambda m, epoch: seen.append((m, epoch)))
    assert [epoch for _, epoch in seen] == [0, 1, 2]  # the sanity check before training is not one
    assert seen[-1][0] == metrics
    assert len({m["val_loss"] for m, _ in seen}) == 3


def test_no_validation_metric_is_an_error(loaders, quiet, make_net: Callable) -> None:
    evaluator = Classification(train_dataloaders=loaders[0], max_epochs=1, **quiet)
    with pytest.raises(SpaceError, match=r"logged were: train_\w+, train_\w+\. Pass val_dataloaders="):
        evaluated(evaluator, make_net())


def test_metrics_of_other_names(data, quiet, make_net: Callable) -> None:
    class Renamed(ClassificationModule):
        def validation_step(self, batch, batch_idx):
            self.log("score", 0.25)

    assert evaluated(Lightning(Renamed(), max_epochs=1, **data, **quiet), make_net()) == {"score": 0.25}


def test_test_measures_without_training_or_writing(data, quiet, make_net: Callable, folders: Path) -> None:
    net = make_net()
    evaluator = Classification(max_epochs=1, callbacks=[ModelCheckpoint()], **data, **quiet)
    before = weights(net)
    metrics = evaluator.test(net, data["val_dataloaders"])
    assert sorted(metrics) == ["test_acc", "test_loss"]
    assert torch.equal(weights(net), before)
    assert files_below(folders) == set()
    other = Lightning(ClassificationModule(), Trainer(max_epochs=1, **quiet), **data)
    assert other.test(net, data["val_dataloaders"]) == metrics


# ---- the user's objects


def test_the_given_model_is_trained_and_module_and_trainer_stay_as_they_were(
    data, quiet, make_net: Callable
) -> None:
    module, trainer = ClassificationModule(learning_rate=0.01), Trainer(max_epochs=1, **quiet)
    callbacks, loggers = list(trainer.callbacks), list(trainer.loggers)
    evaluator = Lightning(module, trainer, **data)
    nets = [make_net(), make_net()]
    before = weights(nets[0])
    for net in nets:
        torch.manual_seed(1)
        used = evaluator.fit(net)
        assert used is not trainer
        assert used.lightning_module is not module
        assert used.lightning_module.model is net
        assert (used.current_epoch, used.global_step) == (1, 8)
        assert not torch.equal(weights(net), before)
    assert torch.equal(weights(nets[0]), weights(nets[1]))
    assert (trainer.current_epoch, trainer.global_step, trainer.callback_metrics) == (0, 0, {})
    assert (trainer.callbacks, trainer.loggers) == (callbacks, loggers)
    assert dict(module.named_children()).keys() == {"criterion", "evaluation_criterion"}  # no model
    assert module._trainer is None


def test_a_trainer_used_elsewhere_afterwards_does_no_harm(data, quiet, make_net: Callable) -> None:
    trainer = Trainer(max_epochs=1, logger=False, enable_checkpointing=False, **quiet)
    evaluator = Lightning(ClassificationModule(), trainer, **data)
    other = ClassificationModule()
    other.set_model(make_net())
    trainer.fit(other, data["train_dataloaders"])
    assert evaluator.fit(make_net()).global_step == 8
    with pytest.raises(SpaceError, match=r"already trained \(1 epochs, 8 steps\).*new Trainer"):
        Lightning(ClassificationModule(), trainer, **data)


def test_callbacks_of_the_user_are_copied_and_those_of_fit_are_not(data, quiet, make_net: Callable) -> None:
    class Count(Callback):
        batches = 0

        def on_train_batch_end(self, *args) -> None:
            self.batches += 1

    users, ours = Count(), Count()
    evaluator = Classification(max_epochs=1, callbacks=[users], **data, **quiet)
    trainer = evaluator.fit(make_net(), callbacks=[ours])
    assert (users.batches, ours.batches) == (0, 8)
    assert next(c for c in trainer.callbacks if type(c) is Count).batches == 8


def test_any_lightning_module_with_a_model_attribute(data, quiet, make_net: Callable) -> None:
    class Own(LightningModule):
        def training_step(self, batch, batch_idx):
            return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def validation_step(self, batch, batch_idx):
            self.log("val_score", (self.model(batch[0]).argmax(1) == batch[1]).float().mean())

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    own = Own()
    assert evaluated(Lightning(own, max_epochs=1, **data, **quiet), make_net())["val_score"] > 0.3
    assert not hasattr(own, "model")


@pytest.mark.slow
def test_a_callable_makes_the_module(data, quiet, make_net: Callable) -> None:
    made: list[ClassificationModule] = []

    def build(model: nn.Module) -> LightningModule:
        made.append(ClassificationModule())
        made[-1].set_model(model)
        return made[-1]

    evaluator = Lightning(build, max_epochs=1, **data, **quiet)
    as_module = Lightning(ClassificationModule(), max_epochs=1, **data, **quiet)
    assert evaluated(evaluator, make_net()) == evaluated(as_module, make_net())
    evaluated(evaluator, make_net())
    assert len(made) == 2


def test_a_datamodule(data, quiet, make_net: Callable) -> None:
    class Digits(LightningDataModule):
        def setup(self, stage: str) -> None:
            self.prepared = stage

        def train_dataloader(self):
            return data["train_dataloaders"]

        def val_dataloader(self):
            return data["val_dataloaders"]

    datamodule = Digits()
    evaluator = Classification(datamodule=datamodule, max_epochs=1, **quiet)
    assert evaluator.datamodule is datamodule
    with_loaders = Classification(max_epochs=1, **data, **quiet)
    assert evaluated(evaluator, make_net()) == evaluated(with_loaders, make_net())
    assert not hasattr(datamodule, "prepared")
    assert datamodule.trainer is None


def test_readable_attributes(data, quiet) -> None:
    evaluator = Classification(max_epochs=7, **data)
    assert evaluator.train_dataloaders is data["train_dataloaders"]
    assert evaluator.val_dataloaders is data["val_dataloaders"]
    assert (evaluator.datamodule, evaluator.max_epochs) == (None, 7)
    assert Lightning(ClassificationModule(), Trainer(max_epochs=3, **quiet)).max_epochs == 3
    assert Classification(**data).max_epochs is None


def test_a_class_attribute_that_hides_the_model_is_named() -> None:
    class Hidden(LightningModule):
        model = None

    with pytest.raises(SpaceError, match="class attribute `model`"):
        Lightning(Hidden(), train_dataloaders=[]).lightning_module(nn.Linear(1, 1))
