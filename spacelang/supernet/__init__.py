"""The supernet: every candidate of a space alive, computing with mixtures."""

from ._cell import MixedCell as MixedCell
from ._group import Group as Group
from ._mixed import Mixed as Mixed
from ._mixed import MixedLayer as MixedLayer
from ._mixed import Pruned as Pruned
from ._mixed import add_weighted as add_weighted
from ._recalibrate import batch_statistics as batch_statistics
from ._recalibrate import recalibrate as recalibrate
from ._supernet import Builder as Builder
from ._supernet import Supernet as Supernet
from ._supernet import edge_by_edge as edge_by_edge
