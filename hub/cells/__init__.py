"""Spaces of cells stacked into a network, and the macro space of ENAS."""

from __future__ import annotations

from .cell_space import CellSpace as CellSpace
from .designs import DARTS as DARTS
from .designs import ENAS as ENAS
from .designs import PNAS as PNAS
from .designs import AmoebaNet as AmoebaNet
from .designs import NASNet as NASNet
from .enas_macro import ENASMacro as ENASMacro
from .fairdarts import SNAS as SNAS
from .fairdarts import FairDARTS as FairDARTS
from .fairdarts import FairDARTSEdges as FairDARTSEdges
from .hierarchical import HierarchicalCells as HierarchicalCells
