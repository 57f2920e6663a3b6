"""Trials: proposing, running and recording architectures. See README.md beside this file."""

from ._executors import Executor as Executor
from ._executors import InProcess as InProcess
from ._export import from_optuna as from_optuna
from ._history import History as History
from ._history import key_of as key_of
from ._ledger import Ledger as Ledger
from ._objectives import Maximize as Maximize
from ._objectives import Minimize as Minimize
from ._objectives import Objective as Objective
from ._objectives import pareto_front as pareto_front
from ._pool import ProcessPool as ProcessPool
from ._ray import RayExecutor as RayExecutor
from ._search import Limits as Limits
from ._search import TrialSearch as TrialSearch
from ._strategy import Exhausted as Exhausted
from ._strategy import MultiTrialStrategy as MultiTrialStrategy
from ._strategy import Proposer as Proposer
from ._strategy import Stopper as Stopper
from ._trial import Proposal as Proposal
from ._trial import Report as Report
from ._trial import Trial as Trial
from ._work import ArchitectureEvaluator as ArchitectureEvaluator
from ._work import Outcome as Outcome
from ._work import Work as Work
from ._work import weights_file as weights_file
