"""Predictors: they learn from trials how architectures will score. See `Predictor`."""

from .bayesian_regression import BayesianRegression as BayesianRegression
from .encoding import cells_by_label as cells_by_label
from .encoding import one_hot as one_hot
from .encoding import partial_one_hot as partial_one_hot
from .encoding import path_encoding as path_encoding
from .encoding import path_graphs as path_graphs
from .encoding import path_index as path_index
from .gcn import GraphNetwork as GraphNetwork
from .lstm import CellLSTM as CellLSTM
from .mlp import MLPEnsemble as MLPEnsemble
from .predictor import Acquisition as Acquisition
from .predictor import Array as Array
from .predictor import Encoding as Encoding
from .predictor import Predictor as Predictor
from .predictor import expected_improvement as expected_improvement
from .predictor import standardised as standardised
from .predictor import thompson as thompson
from .predictor import upper_confidence as upper_confidence
from .regressor import Regressor as Regressor
from .regressor import check_regressor as check_regressor
from .regressor import fresh as fresh
