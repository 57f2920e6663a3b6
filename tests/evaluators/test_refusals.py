"""What `Lightning` and `Classification` refuse, and what they say."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import nn

from spacelang import ModelSpace
from spacelang.errors import SpaceError
from spacelang.evaluators import Classification, ClassificationModule, Lightning
from spacelang.language import LayerChoice, model_context

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")


def test_bad_arguments() -> None:
    for arguments, words in [
        ({"max_epoch": 3}, "no argument 'max_epoch'. Closest: 'max_epochs'"),
        ({"gpus": 1}, "devices="),
        ({"callbacks": [print]}, "callbacks holds <built-in function print>"),
        ({"callbacks": print}, "callbacks holds <built-in function print>"),
        ({"datamodule": 3}, "datamodule is a int"),
        ({"datamodule": LightningDataModule(), "train_dataloaders": []}, "one of the two"),
    ]:
        with pytest.raises(SpaceError, match=words):
            Classification(**arguments)


def test_bad_modules_and_trainers(quiet) -> None:
    with pytest.raises(SpaceError, match=r"module is a torch.nn.modules.linear.Linear; expected"):
        Lightning(nn.Linear(1, 1))
    with pytest.raises(SpaceError, match=r"module is a builtins.str"):
        Lightning("ClassificationModule")
    with pytest.raises(SpaceError, match=r"trainer is a builtins.int; expected a lightning.pytorch.Trainer"):
        Lightning(ClassificationModule(), 3)
    with pytest.raises(SpaceError, match=r"both a Trainer and Trainer arguments \(max_epochs\)"):
        Lightning(ClassificationModule(), Trainer(**quiet), max_epochs=3)


def test_modules_that_would_train_something_else(data, make_net: Callable) -> None:
    class Network(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(1, 1)

    class Forgetful(LightningModule):
        def set_model(self, model: nn.Module) -> None:
            """Keep nothing."""

    with pytest.raises(SpaceError, match="Network has parameters of its own"):
        Lightning(Network(), **data).fit(make_net())
    with pytest.raises(SpaceError, match="Forgetful does not hold the model"):
        Lightning(Forgetful(), **data).fit(make_net())
    with pytest.raises(SpaceError, match="Network does not hold the model"):
        Lightning(lambda model: Network(), **data).fit(make_net())
    with pytest.raises(SpaceError, match="returned a Linear; expected a lightning"):
        Lightning(lambda model: nn.Linear(1, 1), **data).fit(make_net())


def test_bad_models(data, quiet, make_net: Callable) -> None:
    evaluator = Classification(max_epochs=1, **data, **quiet)
    with pytest.raises(SpaceError, match="Pass an object of the class"):
        evaluator.fit(nn.Linear)
    with pytest.raises(SpaceError, match=r"is 3; expected an nn.Module"):
        evaluator.fit(3)
    with pytest.raises(SpaceError, match="no training data"):
        Classification(max_epochs=1, **quiet).fit(make_net())


def test_an_open_space_is_refused_and_a_frozen_one_is_not(data, quiet) -> None:
    class Space(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.flat = nn.Flatten()
            self.head = LayerChoice(
                {"a": nn.Linear(64, 10), "b": nn.Linear(64, 10, bias=False)}, label="head"
            )

        def forward(self, x):
            return self.head(self.flat(x))

    evaluator = Classification(max_epochs=1, **data, **quiet)
    with pytest.raises(SpaceError, match=r"the space Space, with choices still open.*freeze"):
        evaluator.fit(Space())
    with model_context({"head": "b"}):
        net = Space()
    assert "val_acc" in evaluator.evaluate(net)
