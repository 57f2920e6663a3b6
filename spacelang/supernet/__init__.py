"""The supernet: every candidate of a space alive, computing with mixtures."""

from .channel_order import channel_order as channel_order
from .channel_order import sort_channels as sort_channels
from .execution import Execution as Execution
from .execution import ExecutionName as ExecutionName
from .graph_weights import weighted_copy as weighted_copy
from .group import Group as Group
from .group import Kind as Kind
from .mixed import Mixed as Mixed
from .mixed import MixedInput as MixedInput
from .mixed import MixedLayer as MixedLayer
from .mixed import add_weighted as add_weighted
from .mixed_cell import Cache as Cache
from .mixed_cell import MixedCell as MixedCell
from .recalibrate import batch_statistics as batch_statistics
from .recalibrate import recalibrate as recalibrate
from .supernet import Builder as Builder
from .supernet import Supernet as Supernet
from .supernet import edge_by_edge as edge_by_edge
from .supernet import stepwise as stepwise
