"""Extras: additions to any one-shot strategy."""

from .dropout import EdgeDropout as EdgeDropout
from .dropout import OperationDropout as OperationDropout
from .dropout import ScheduledDropPath as ScheduledDropPath
from .dropout import SkipDropout as SkipDropout
from .early_stop import RaiseWeightDecay as RaiseWeightDecay
from .early_stop import StopOnEigenvalue as StopOnEigenvalue
from .early_stop import StopOnSkips as StopOnSkips
from .early_stop import StopOnStableRanking as StopOnStableRanking
from .entropy import EntropyPenalty as EntropyPenalty
from .monitor import Monitor as Monitor
from .penalty import Penalty as Penalty
