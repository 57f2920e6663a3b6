"""What the models of a space cost. See README.md beside this file."""

from ._expected import ExpectedCost as ExpectedCost
from ._expected import expected_cost as expected_cost
from ._latency import LatencyTable as LatencyTable
from ._limits import CostLimit as CostLimit
from ._limits import Range as Range
from ._limits import Verdict as Verdict
from ._measure import measure_latency as measure_latency
from ._metrics import Metric as Metric
from ._space_profile import SpaceProfile as SpaceProfile
from ._space_profile import profile_space as profile_space
from ._survey import Survey as Survey
