"""The supernet: every candidate of a space alive, computing with mixtures."""

from ._group import Group as Group
from ._mixed import Mixed as Mixed
from ._supernet import Builder as Builder
from ._supernet import Supernet as Supernet
from ._supernet import edge_by_edge as edge_by_edge
