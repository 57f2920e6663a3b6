"""Running a search: the experiment, its folder, and what makes it repeatable."""

from ._experiment import Experiment as Experiment
from ._protocols import Evaluator as Evaluator
from ._protocols import OneShotStrategy as OneShotStrategy
from ._protocols import Search as Search
from ._protocols import TrainingEvaluator as TrainingEvaluator
