"""Spaces and architectures as networkx graphs."""

from .hashing import architecture_hash as architecture_hash
from .space_graph import architecture_graph as architecture_graph
from .space_graph import space_graph as space_graph
from .wiring import Wire as Wire
from .wiring import Wired as Wired
from .wiring import Wiring as Wiring
