"""Predictors: what an architecture will score, from what others did. See `Predictor`."""

from ._acquisition import Acquisition as Acquisition
from ._acquisition import expected_improvement as expected_improvement
from ._acquisition import thompson as thompson
from ._acquisition import upper_confidence as upper_confidence
from ._bayesian_regression import BayesianRegression as BayesianRegression
from ._encoding import one_hot as one_hot
from ._encoding import partial_one_hot as partial_one_hot
from ._encoding import path_encoding as path_encoding
from ._encoding import path_index as path_index
from ._gcn import GraphNetwork as GraphNetwork
from ._lstm import CellLSTM as CellLSTM
from ._mlp import MLPEnsemble as MLPEnsemble
from ._predictor import Encoding as Encoding
from ._predictor import Predictor as Predictor
from ._regressor import Regressor as Regressor
