"""The cell spaces of DARTS, NASNet, ENAS, AmoebaNet and PNAS; each is a `CellDesign`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ..operations.cell_operations import DARTS_OPERATIONS
from .cell_space import CellDesign, CellSpace
from .robust_darts import SMALLER


class DARTS(CellSpace):
    """DARTS: four nodes with two different inputs each; all are in the output. Source: arXiv:1806.09055.

    See `CellSpace` for the arguments; the paper searches with 16 channels and 8 cells and evaluates with 36
    and 20 (CIFAR) or 48 and 14 (ImageNet).

    `space` is one of "s1" to "s4" (arXiv:1909.09656), made to show searches that end in skip connections.
    Each edge has two candidates of its own; a skip or a 3x3 separable convolution; these two or "none"; noise
    or the convolution. There a strategy adds no zero operation of its own, as the strategy DARTS(none=False).
    """

    design: ClassVar[CellDesign] = CellDesign(
        DARTS_OPERATIONS, num_nodes=4, merge_op="all", distinct_inputs=True
    )
    smaller: ClassVar[Mapping[str, CellDesign]] = SMALLER


class NASNet(CellSpace):
    """NASNet: thirteen operations, five nodes; the unread nodes are the output. Source: arXiv:1707.07012.

    See `CellSpace` for the arguments. A node adds its two operations; the paper also allows to concatenate
    them, which none of its published cells does.
    """

    design: ClassVar[CellDesign] = CellDesign(
        (
            "skip_connect",
            "conv_3x1_1x3",
            "conv_7x1_1x7",
            "dil_conv_3x3",
            "avg_pool_3x3",
            "max_pool_3x3",
            "max_pool_5x5",
            "max_pool_7x7",
            "conv_1x1",
            "conv_3x3",
            "sep_conv_3x3",
            "sep_conv_5x5",
            "sep_conv_7x7",
        ),
        num_nodes=5,
        merge_op="loose_end",
    )


class ENAS(CellSpace):
    """ENAS: five operations, five nodes; the unread nodes are the output. Source: arXiv:1802.03268.

    See `CellSpace` for the arguments.
    """

    design: ClassVar[CellDesign] = CellDesign(
        ("skip_connect", "sep_conv_3x3", "sep_conv_5x5", "avg_pool_3x3", "max_pool_3x3"),
        num_nodes=5,
        merge_op="loose_end",
    )


class AmoebaNet(CellSpace):
    """AmoebaNet: eight operations, five nodes; the unread nodes are the output. Source: arXiv:1802.01548.

    See `CellSpace` for the arguments.
    """

    design: ClassVar[CellDesign] = CellDesign(
        (
            "skip_connect",
            "sep_conv_3x3",
            "sep_conv_5x5",
            "sep_conv_7x7",
            "avg_pool_3x3",
            "max_pool_3x3",
            "dil_sep_conv_3x3",
            "conv_7x1_1x7",
        ),
        num_nodes=5,
        merge_op="loose_end",
    )


class PNAS(CellSpace):
    """PNAS: eight operations, five nodes; all are in the output. Source: arXiv:1712.00559.

    See `CellSpace` for the arguments. The paper searches one cell and uses it at both strides; here that is
    an architecture whose cells "normal" and "reduce" are alike.
    """

    design: ClassVar[CellDesign] = CellDesign(
        (
            "sep_conv_3x3",
            "sep_conv_5x5",
            "sep_conv_7x7",
            "conv_7x1_1x7",
            "skip_connect",
            "avg_pool_3x3",
            "max_pool_3x3",
            "dil_conv_3x3",
        ),
        num_nodes=5,
        merge_op="all",
    )
