"""Architectures measured with a supernet's weights: the search's own numbers, and a supernet left alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from spacelang import LayerChoice, ModelSpace, SpaceError, Supernet, model_context
from spacelang.evaluators import Classification, Functional, Inherited
from spacelang.evaluators.data import digits
from spacelang.supernet import recalibrate
from spacelang.trials import Evaluator

ARCH = {"layer": "wide"}


class Net(ModelSpace):
    """Two convolutions to choose from, batch norm, digits."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        layers = {"narrow": nn.Conv2d(1, channels, 1), "wide": nn.Conv2d(1, channels, 3, padding=1)}
        self.layer = LayerChoice(layers, label="layer")
        self.norm = nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels * 64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.layer(x)).relu().flatten(1))


@pytest.fixture
def supernet() -> Supernet:
    """With statistics that are of no path."""
    torch.manual_seed(0)
    net = Supernet(Net())
    net.network.norm.running_mean += 3.0
    return net


@pytest.fixture(scope="module")
def in_order() -> tuple[DataLoader[Any], DataLoader[Any]]:
    """4 batches of 32 digits and 2 of 50, not shuffled."""
    train = digits(seed=0).train
    return (
        DataLoader(Subset(train, range(128)), batch_size=32),
        DataLoader(Subset(train, range(128, 228)), batch_size=50),
    )


@pytest.fixture
def make(supernet: Supernet, in_order: Any, quiet: dict[str, Any]) -> Callable[..., Inherited]:
    """Make the evaluator under test."""

    def inherited(**settings: Any) -> Inherited:
        train, validation = in_order
        return Inherited(
            supernet,
            Classification(train_dataloaders=train, val_dataloaders=validation, **quiet),
            **settings,
        )

    return inherited


def expected(supernet: Supernet, arch: dict[str, Any], in_order: Any, calibration: int) -> dict[str, float]:
    """The same by hand."""
    model, (train, validation) = supernet.freeze(arch), in_order
    batches = [x for x, _ in train] * 2
    recalibrate(model, [lambda x=x: model(x) for x in batches[:calibration]])
    with torch.no_grad():
        logits = torch.cat([model.eval()(x) for x, _ in validation])
    labels = torch.cat([y for _, y in validation])
    return {
        "val_loss": float(nn.functional.cross_entropy(logits, labels)),
        "val_acc": float((logits.argmax(1) == labels).float().mean()),
    }


@pytest.mark.parametrize("steps", [3, 6])
def test_a_few_steps_train_the_copy_alone(
    supernet: Supernet, in_order: Any, quiet: dict[str, Any], steps: int
) -> None:
    """Plain gradient descent over the 4 batches of the data, and over them again."""
    train, validation = in_order
    settings = {"learning_rate": 0.1, "optimizer": torch.optim.SGD, "max_epochs": 2, **quiet}
    evaluator = Classification(train_dataloaders=train, val_dataloaders=validation, **settings)
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    found = Inherited(supernet, evaluator, calibration_batches=4, finetune_steps=steps).evaluate(ARCH)
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())
    model = supernet.freeze(ARCH).train()
    for x, y in (list(train) * 2)[:steps]:
        gradients = torch.autograd.grad(nn.functional.cross_entropy(model(x), y), list(model.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter -= 0.1 * gradient
    recalibrate(model, [lambda x=x: model(x) for x, _ in train])
    with torch.no_grad():
        logits = torch.cat([model.eval()(x) for x, _ in validation])
    labels = torch.cat([y for _, y in validation])
    assert found["val_loss"] == pytest.approx(float(nn.functional.cross_entropy(logits, labels)), rel=1e-5)


@pytest.mark.parametrize("calibration", [2, 6])
def test_metrics_are_those_of_the_recalibrated_path(
    make: Any, supernet: Supernet, in_order: Any, calibration: int
) -> None:
    evaluator = make(calibration_batches=calibration)
    assert isinstance(evaluator, Evaluator)
    for arch in (ARCH, {"layer": "narrow"}):
        metrics = evaluator.evaluate(arch)
        assert metrics == pytest.approx(expected(supernet, arch, in_order, calibration), rel=1e-5)


def test_without_calibration_the_supernets_statistics_stay(
    make: Any, supernet: Supernet, in_order: Any
) -> None:
    plain = make(calibration_batches=0).evaluate(ARCH)["val_loss"]
    with torch.no_grad():
        model = supernet.freeze(ARCH).eval()
        loss = [nn.functional.cross_entropy(model(x), y) for x, y in in_order[1]]
    assert plain == pytest.approx(float(sum(loss)) / 2, rel=1e-5)
    assert plain != pytest.approx(make().evaluate(ARCH)["val_loss"], rel=1e-2)


def test_the_supernet_and_the_generators_are_left_alone(make: Any, supernet: Supernet) -> None:
    supernet.eval()
    supernet.select({"layer": "narrow"})
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    x, state = torch.randn(2, 1, 8, 8), torch.get_rng_state()
    output = supernet(x)
    make().evaluate(ARCH)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())
    assert not supernet.training
    assert torch.equal(supernet(x), output)


def test_a_frozen_model_stands_for_its_architecture(make: Any) -> None:
    """Its own weights are not used, and its size need not be the supernet's."""
    evaluator = make()
    with model_context(ARCH):
        larger = Net(channels=8)
    for model in (larger, Net().freeze(ARCH)):
        before = [p.clone() for p in model.parameters()]
        assert evaluator.evaluate(model) == evaluator.evaluate(ARCH)
        assert all(torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True))


def test_a_report_is_made_once(make: Any) -> None:
    reports: list[Any] = []
    metrics = make().evaluate(ARCH, report=lambda values, epoch: reports.append((values, epoch)))
    assert reports == [(metrics, 0)]


def test_a_datamodule_gives_both_kinds_of_batches(
    make: Any, supernet: Supernet, in_order: Any, quiet: dict[str, Any]
) -> None:
    class Data(LightningDataModule):
        def setup(self, stage: str) -> None:
            if stage == "fit":
                self.train = in_order[0]
            self.validation = in_order[1]

        def train_dataloader(self) -> Any:
            return self.train

        def val_dataloader(self) -> Any:
            return self.validation

    data = Data()
    evaluator = Inherited(supernet, Classification(datamodule=data, **quiet))
    assert evaluator.evaluate(ARCH) == make().evaluate(ARCH)
    assert not hasattr(data, "train")


def test_what_a_search_measured_is_measured_again(
    make: Any, supernet: Supernet, quiet: Any, in_order: Any
) -> None:
    """The hand-off: the same path, weights and batches give the same accuracy."""
    from spacelang.strategies import RandomOneShot

    strategy = RandomOneShot(candidates=2, finalists=2, calibration_batches=4, metric="val_acc", mode="max")
    search = strategy.attach(supernet)
    train, validation = in_order
    evaluator = Classification(train_dataloaders=train, val_dataloaders=validation, max_epochs=1, **quiet)
    evaluator.fit(supernet, callbacks=[search])
    again = Inherited(supernet, evaluator, calibration_batches=4)
    assert len(search.ranking) == 2
    for value, arch in search.ranking:
        assert again.evaluate(arch)["val_acc"] == pytest.approx(value, abs=1e-6)


def test_wrong_arguments_are_named(make: Any, supernet: Supernet) -> None:
    with pytest.raises(SpaceError, match=r"takes a trained Supernet.*got a Net"):
        Inherited(Net(), make().evaluator)
    with pytest.raises(SpaceError, match=r"Lightning or Classification.*got a Functional"):
        Inherited(supernet, Functional(lambda model: 0.0))
    with pytest.raises(SpaceError, match="calibration_batches=-1"):
        make(calibration_batches=-1)
    with pytest.raises(SpaceError, match="candidates are 'narrow', 'wide'"):
        make().evaluate({"layer": "wider"})
    with pytest.raises(SpaceError, match="architecture of a Tanh is not known"):
        make().evaluate(nn.Tanh())
    with pytest.raises(SpaceError, match="architecture of a Net is not known"):
        make().evaluate(Net())
