"""Costs of the models of a space. See README.md beside this file."""

from .expected import ExpectedCost as ExpectedCost
from .expected import expected_cost as expected_cost
from .latency import LatencyTable as LatencyTable
from .limits import CostLimit as CostLimit
from .limits import Metric as Metric
from .limits import Range as Range
from .limits import Verdict as Verdict
from .profiling import Profile as Profile
from .profiling import SpaceProfile as SpaceProfile
from .profiling import profile as profile
from .profiling import profile_space as profile_space
from .survey import SpaceReport as SpaceReport
from .survey import Survey as Survey
from .survey import report as report
from .timing import measure_latency as measure_latency
