"""Evaluators: how a model is trained and measured.

An evaluator has one method, `evaluate(model, report=None) -> dict[str, float]`.

    Classification(train_dataloaders=train, val_dataloaders=val, max_epochs=10)   images and class labels
    Regression(train_dataloaders=train, val_dataloaders=val, max_epochs=10)       inputs and real numbers
    Language(train_dataloaders=train, val_dataloaders=val, max_epochs=10)         tokens, to predict the next
    Nodes(train_dataloaders=train, val_dataloaders=val, max_epochs=10)            nodes of graphs, and labels
    FewShot(train_dataloaders=train, val_dataloaders=val, max_epochs=10)          episodes of few-shot tasks
    Lightning(module, trainer, train_dataloaders=...)                             any LightningModule
    Functional(function)                                                          any Python function
    Inherited(supernet, evaluator)                           architectures with the weights of a supernet
    Tabular("table.csv")                                     architectures whose metrics are known already
    ZeroCost("synflow", batch=next(iter(train)))             untrained models, by one minibatch

`subset(evaluator, 0.1)` trains on a tenth of the data.

Lightning takes seconds to import, so the names below are resolved when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spacelang.doors import open_door

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule as LightningModule
    from lightning.pytorch import Trainer as Trainer
    from torch.utils.data import DataLoader as DataLoader

    from . import data as data
    from .functional import Functional as Functional
    from .training.classification import Classification as Classification
    from .training.classification import ClassificationModule as ClassificationModule
    from .training.darts_recipe import DartsTrainingModule as DartsTrainingModule
    from .training.few_shot import FewShot as FewShot
    from .training.few_shot import FewShotModule as FewShotModule
    from .training.graph_nodes import GraphBatch as GraphBatch
    from .training.graph_nodes import NodeModule as NodeModule
    from .training.graph_nodes import Nodes as Nodes
    from .training.language_model import Language as Language
    from .training.language_model import LanguageModule as LanguageModule
    from .training.lightning_training import Lightning as Lightning
    from .training.recurrent_recipe import AverageOnPlateau as AverageOnPlateau
    from .training.recurrent_recipe import RateByLength as RateByLength
    from .training.regression import Regression as Regression
    from .training.regression import RegressionModule as RegressionModule
    from .training.subset import subset as subset
    from .untrained.inherited import Inherited as Inherited
    from .untrained.proxy_report import ProxyReport as ProxyReport
    from .untrained.proxy_report import proxy_report as proxy_report
    from .untrained.proxy_report import verdict as verdict
    from .untrained.tabular import Tabular as Tabular
    from .untrained.zero_cost import ZeroCost as ZeroCost

open_door(globals())
