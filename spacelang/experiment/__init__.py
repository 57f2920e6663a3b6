"""Running a search: the experiment, its folder, and what makes it repeatable."""

from typing import TYPE_CHECKING

from ..doors import open_door
from .comparison import compared as compared
from .experiment import Experiment as Experiment
from .loaded import LoadedExperiment as LoadedExperiment
from .protocols import OneShotStrategy as OneShotStrategy
from .protocols import Search as Search
from .supernet_front import Front as Front
from .trial_run import TrialOptions as TrialOptions
from .trial_run import TrialSettings as TrialSettings

if TYPE_CHECKING:  # late: it imports Lightning, which trials do not need
    from .learning_rates import multiply_rates as multiply_rates

open_door(globals())
