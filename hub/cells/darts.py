"""The cell space of DARTS."""

from __future__ import annotations

from typing import ClassVar

from ..operations.cell_operations import DARTS_OPERATIONS
from .cell_space import CellDesign, CellSpace


class DARTS(CellSpace):
    """Four nodes on two different inputs each, all of them in the cell's output. Source: arXiv:1806.09055.

    See `CellSpace` for the arguments; the paper searches with 16 channels and 8 cells and evaluates with 36
    and 20 (CIFAR) or 48 and 14 (ImageNet).
    """

    design: ClassVar[CellDesign] = CellDesign(
        DARTS_OPERATIONS, num_nodes=4, merge_op="all", distinct_inputs=True
    )
