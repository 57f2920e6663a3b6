"""Evaluators: how a model is trained and measured.

An evaluator has one method, `evaluate(model, report=None) -> dict[str, float]`.

    Classification(train_dataloaders=train, val_dataloaders=val, max_epochs=10)   images and class labels
    Regression(train_dataloaders=train, val_dataloaders=val, max_epochs=10)       inputs and real numbers
    Language(train_dataloaders=train, val_dataloaders=val, max_epochs=10)         tokens, to predict the next
    Lightning(module, trainer, train_dataloaders=...)                             any LightningModule
    Functional(function)                                                          any Python function
    Inherited(supernet, evaluator)                           architectures with the weights of a supernet
    Tabular("table.csv")                                     architectures whose metrics are known already
    ZeroCost("synflow", batch=next(iter(train)))             untrained models, by one minibatch

`subset(evaluator, 0.1)` trains on a tenth of the data.

Lightning takes seconds to import, so the names below are resolved when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule as LightningModule
    from lightning.pytorch import Trainer as Trainer
    from torch.utils.data import DataLoader as DataLoader

    from .functional import Functional as Functional
    from .training.classification import Classification as Classification
    from .training.classification import ClassificationModule as ClassificationModule
    from .training.darts_recipe import DartsTrainingModule as DartsTrainingModule
    from .training.language_model import Language as Language
    from .training.language_model import LanguageModule as LanguageModule
    from .training.lightning_training import Lightning as Lightning
    from .training.regression import Regression as Regression
    from .training.regression import RegressionModule as RegressionModule
    from .training.subset import subset as subset
    from .untrained.inherited import Inherited as Inherited
    from .untrained.tabular import Tabular as Tabular
    from .untrained.zero_cost import ZeroCost as ZeroCost

__all__ = [
    "Classification",
    "ClassificationModule",
    "DartsTrainingModule",
    "DataLoader",
    "Functional",
    "Inherited",
    "Language",
    "LanguageModule",
    "Lightning",
    "LightningModule",
    "Regression",
    "RegressionModule",
    "Tabular",
    "Trainer",
    "ZeroCost",
    "data",
    "subset",
]

_HOME = {
    "Classification": ".training.classification",
    "ClassificationModule": ".training.classification",
    "DartsTrainingModule": ".training.darts_recipe",
    "DataLoader": "torch.utils.data",
    "Functional": ".functional",
    "Inherited": ".untrained.inherited",
    "Language": ".training.language_model",
    "LanguageModule": ".training.language_model",
    "Lightning": ".training.lightning_training",
    "LightningModule": "lightning.pytorch",
    "Regression": ".training.regression",
    "RegressionModule": ".training.regression",
    "Tabular": ".untrained.tabular",
    "subset": ".training.subset",
    "Trainer": "lightning.pytorch",
    "ZeroCost": ".untrained.zero_cost",
}


def __getattr__(name: str) -> Any:
    if name == "data":
        return import_module(".data", __name__)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
