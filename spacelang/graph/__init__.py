"""Spaces and architectures as networkx graphs."""

from ._hash import architecture_hash as architecture_hash
from ._space_graph import architecture_graph as architecture_graph
from ._space_graph import space_graph as space_graph
from ._weights import weighted_copy as weighted_copy
