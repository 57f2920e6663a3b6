"""Settings of evaluators that are value choices: found, decided, used, and refused while they are open."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from spacelang import LayerChoice, ModelSpace, Supernet, value_choice
from spacelang.errors import SpaceError
from spacelang.evaluators import (
    Classification,
    DartsTrainingModule,
    Functional,
    Inherited,
    Lightning,
    Tabular,
    subset,
)
from spacelang.evaluators.training.classification import possible
from spacelang.language import Tunable, open_decisions

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")

LR = value_choice([0.001, 0.01, 0.1], label="lr")
EPOCHS = value_choice([1, 2], label="epochs")
ARCH = {"lr": 0.1, "epochs": 2, "layer": "conv"}


class Module(LightningModule):
    """Saves its arguments, as Lightning's users do."""

    def __init__(self, rate: float = 0.1, by_name: bool = True) -> None:
        super().__init__()
        if by_name:
            self.save_hyperparameters()
        else:
            self.save_hyperparameters({"rate": rate})
        self.model: nn.Module | None = None

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        assert self.model is not None
        return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.hparams["rate"])


class Built(Module):
    """Takes its model from its constructor."""

    def __init__(self, model: nn.Module, rate: float) -> None:
        super().__init__(rate)
        self.model = model


class Data(Tunable, LightningDataModule):
    """Digits in batches of a size."""

    def __init__(self, loader: DataLoader[Any], batch_size: int) -> None:
        super().__init__()
        self.loader = loader
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.loader.dataset, batch_size=self.batch_size)

    val_dataloader = train_dataloader


def rates(trainer: Trainer) -> set[float]:
    return {group["initial_lr"] if "initial_lr" in group else group["lr"] for group in groups(trainer)}


def groups(trainer: Trainer) -> list[dict[str, Any]]:
    return [group for optimizer in trainer.optimizers for group in optimizer.param_groups]


# ---- what training gets


def test_a_classification_trains_with_what_was_decided(data: Any, quiet: Any, make_net: Callable) -> None:
    evaluator = Classification(
        learning_rate=LR,
        weight_decay=LR / 10,
        label_smoothing=LR,
        optimizer=partial(torch.optim.SGD, momentum=value_choice([0.0, 0.9], label="momentum")),
        max_epochs=EPOCHS,
        gradient_clip_val=10 * LR,
        limit_train_batches=1,
        **data,
        **quiet,
    )
    assert [d.label for d in evaluator.decisions()] == ["lr", "momentum", "epochs"]
    trainer = evaluator.decided({**ARCH, "momentum": 0.9}).fit(make_net())
    assert (trainer.current_epoch, trainer.gradient_clip_val) == (2, 1.0)
    (group,) = groups(trainer)
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.1, 0.9, pytest.approx(0.01))
    module: Any = trainer.lightning_module
    assert module.criterion.label_smoothing == 0.1
    assert module.hparams == module.hparams_initial
    assert module.hparams["learning_rate"] == 0.1
    assert [d.label for d in evaluator.decisions()] == ["lr", "momentum", "epochs"]


@pytest.mark.slow
def test_decided_is_the_same_as_given(data: Any, quiet: Any, make_net: Callable) -> None:
    settings = {**data, **quiet}
    results = []
    for evaluator in (
        Classification(learning_rate=0.1, max_epochs=2, **settings),
        Classification(learning_rate=LR, max_epochs=EPOCHS, **settings).decided(ARCH),
    ):
        torch.manual_seed(1)
        results.append(evaluator.evaluate(make_net()))
    assert results[0] == results[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "source",
    [
        partial(Built, rate=LR),
        Module(LR),
        Module(LR, by_name=False),
        DartsTrainingModule(LR, auxiliary_loss_weight=0.0, max_epochs=EPOCHS, eta_min=LR / 2),
    ],
    ids=["partial", "module", "module with a dict", "darts"],
)
def test_modules_get_their_rate(source: Any, data: Any, quiet: Any, make_net: Callable) -> None:
    evaluator = Lightning(source, max_epochs=EPOCHS, limit_train_batches=1, **data, **quiet)
    assert {d.label for d in evaluator.decisions()} == {"lr", "epochs"}
    assert rates(evaluator.decided(ARCH).fit(make_net())) == {0.1}
    assert rates(evaluator.decided({"lr": 0.01, "epochs": 1}).fit(make_net())) == {0.01}


def test_a_datamodule_takes_part(loaders: Any, quiet: Any, make_net: Callable) -> None:
    sizes = value_choice([16, 128], label="batch")
    evaluator = Lightning(Module(), datamodule=Data(loaders[0], sizes), max_epochs=1, **quiet)
    trainer = evaluator.decided({"batch": 128}).fit(make_net())
    assert trainer.num_training_batches == 2


def test_data_and_what_is_plain_are_shared(data: Any, quiet: Any) -> None:
    evaluator = Classification(max_epochs=EPOCHS, **data, **quiet)
    decided = evaluator.decided(ARCH)
    assert decided.train_dataloaders is evaluator.train_dataloaders
    assert decided.module is evaluator.module
    assert (str(evaluator.max_epochs), decided.max_epochs) == ("epochs", 2)


def test_a_function_gets_its_arguments() -> None:
    def train(model: nn.Module, rate: float, options: dict[str, Any], epochs: int) -> float:
        return rate * options["scale"] * epochs

    evaluator = Functional(train, rate=LR, options={"scale": 10 * LR}, epochs=3)
    assert [d.label for d in evaluator.decisions()] == ["lr"]
    assert evaluator.decided(ARCH).evaluate(nn.Identity()) == {"default": pytest.approx(0.3)}


def test_evaluators_can_be_sent_to_other_processes(data: Any, quiet: Any) -> None:
    evaluator = Classification(learning_rate=LR, max_epochs=EPOCHS, **data, **quiet)
    sent = ForkingPickler.loads(ForkingPickler.dumps(evaluator))
    assert sent.decisions() == evaluator.decisions()
    assert sent.decided(ARCH).module.hparams["learning_rate"] == 0.1


# ---- what is refused


def test_nothing_is_measured_with_open_settings(data: Any, quiet: Any, make_net: Callable) -> None:
    evaluator = Classification(learning_rate=LR, max_epochs=1, **data, **quiet)
    message = r"Classification leaves 'lr' to be chosen.*evaluator.decided\(\{'lr': 0.001\}\)"
    for method in (evaluator.evaluate, evaluator.fit, evaluator.validate, evaluator.lightning_module):
        with pytest.raises(SpaceError, match=message):
            method(make_net())
    with pytest.raises(SpaceError, match="Functional leaves 'lr' to be chosen"):
        Functional(lambda model, rate: rate, rate=LR).evaluate(make_net())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Classification(learning_rate=-LR), "learning_rate=-0.001 must be a number above 0"),
        (lambda: Classification(weight_decay=-LR), "weight_decay=-0.001 must be a number of at least 0"),
        (
            lambda: Classification(label_smoothing=10 * LR),
            "label_smoothing=1.0 must be .* below 1",
        ),
        (lambda: Classification(nn.MSELoss(), label_smoothing=LR), "and a criterion were given"),
        (lambda: DartsTrainingModule(LR, eta_min=0.05), "eta_min=0.05 must be at most learning_rate="),
        (
            lambda: DartsTrainingModule(momentum=10 * LR),
            "momentum=1.0 must be .* below 1",
        ),
        (lambda: Functional(lambda model: 0, rate=LR), "its signature is"),
        (lambda: Classification(max_epoch=EPOCHS), "no argument 'max_epoch'. Closest: 'max_epochs'"),
    ],
)
def test_a_candidate_that_is_illegal_is_refused_at_once(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        make()


def test_candidates_that_are_legal_together_are_accepted() -> None:
    assert open_decisions(DartsTrainingModule(LR, eta_min=LR / 10)) == ()  # it is Lightning that decides
    assert possible(LR / LR) == (1.0,)
    assert possible(3) == (3,)


def test_inherited_weights_are_not_trained(data: Any, quiet: Any) -> None:
    class Net(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.layer = LayerChoice({"a": nn.Linear(1, 1), "b": nn.Identity()}, label="layer")

    evaluator = Classification(learning_rate=LR, max_epochs=1, **data, **quiet)
    with pytest.raises(SpaceError, match=r"'lr' to be chosen\. Inherited measures all"):
        Inherited(Supernet(Net()), evaluator)
    Inherited(Supernet(Net()), evaluator.decided({"lr": 0.1}))


# ---- others


def test_evaluators_around_evaluators_pass_it_on() -> None:
    class Halved(Tunable):
        def __init__(self, inner: Functional) -> None:
            self.inner = inner

        def evaluate(self, model: nn.Module, report: Any = None) -> dict[str, float]:
            return {name: value / 2 for name, value in self.inner.evaluate(model, report).items()}

    outer = Halved(Functional(lambda model, rate: rate, rate=LR))
    assert [d.label for d in outer.decisions()] == ["lr"]
    assert outer.decided(ARCH).evaluate(nn.Identity()) == {"default": 0.05}


def test_evaluators_without_choices_have_none(data: Any, quiet: Any) -> None:
    table = Tabular({"arch": ['{"layer": "conv"}'], "accuracy": [0.9]})
    for evaluator in (Classification(max_epochs=1, **data, **quiet), Functional(float), table):
        assert open_decisions(evaluator) == ()


# ---- batch sizes and optimisers


def batches(trainer: Trainer) -> tuple[int, int]:
    return trainer.train_dataloader.batch_size, trainer.val_dataloaders.batch_size  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["function", "partial"])
def test_loaders_are_made_with_the_batch_size_chosen(
    kind: str, loaders: Any, quiet: Any, make_net: Callable
) -> None:
    sizes, samples = value_choice([16, 128], label="batch"), loaders[0].dataset
    if kind == "function":
        data = {
            "train_dataloaders": lambda batch_size: DataLoader(samples, batch_size=batch_size, shuffle=True),
            "val_dataloaders": lambda: DataLoader(samples, batch_size=64),
            "batch_size": sizes,
        }
    else:
        data = {
            "train_dataloaders": partial(DataLoader, samples, batch_size=sizes),
            "val_dataloaders": DataLoader(samples, batch_size=64),
        }
    evaluator = Classification(max_epochs=1, limit_train_batches=1, **data, **quiet)
    assert [d.label for d in evaluator.decisions()] == ["batch"]
    assert batches(evaluator.decided({"batch": 128}).fit(make_net())) == (128, 64)
    assert batches(subset(evaluator, 0.5).decided({"batch": 16}).fit(make_net())) == (16, 64)
    assert evaluator.decided({"batch": 16}).validate(make_net())["val_acc"] >= 0


def test_batch_sizes_that_reach_no_loader(loaders: Any) -> None:
    with pytest.raises(SpaceError, match=r"batch_size=64 reaches no loader; pass it to the DataLoader"):
        Classification(batch_size=64, train_dataloaders=loaders[0])
    with pytest.raises(SpaceError, match=r"needs a batch size; pass batch_size="):
        Classification(train_dataloaders=lambda batch_size: loaders[0])
    with pytest.raises(SpaceError, match=r"batch_size=0 must be an integer of at least 1"):
        Classification(
            train_dataloaders=lambda batch_size: loaders[0],
            batch_size=value_choice([0, 1], label="batch"),
        )


def test_the_class_of_the_optimiser_is_chosen(data: Any, quiet: Any, make_net: Callable) -> None:
    evaluator = Classification(
        optimizer=value_choice([torch.optim.SGD, torch.optim.Adam], label="optimizer"),
        max_epochs=1,
        limit_train_batches=1,
        **data,
        **quiet,
    )
    for name, kind in (("SGD", torch.optim.SGD), ("Adam", torch.optim.Adam)):
        trainer = evaluator.decided({"optimizer": name}).fit(make_net())
        assert [type(optimizer) for optimizer in trainer.optimizers] == [kind]
