"""Spaces of cells stacked into a network, and the macro space of ENAS."""

from __future__ import annotations

from .cell_space import CellSpace as CellSpace
from .darts import DARTS as DARTS
from .enas_macro import ENASMacro as ENASMacro
from .fairdarts import FairDARTS as FairDARTS
from .nasnet import ENAS as ENAS
from .nasnet import PNAS as PNAS
from .nasnet import AmoebaNet as AmoebaNet
from .nasnet import NASNet as NASNet
