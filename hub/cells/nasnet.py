"""The cell spaces of NASNet, ENAS, AmoebaNet and PNAS."""

from __future__ import annotations

from typing import ClassVar

from .cell_space import CellDesign, CellSpace


class NASNet(CellSpace):
    """Thirteen operations on five nodes; those nobody reads are the output. Source: arXiv:1707.07012.

    See `CellSpace` for the arguments. A node adds its two operations, the one combination of the paper's two
    that its published cells use.
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
    """Five operations on five nodes; those nobody reads are the output. Source: arXiv:1802.03268.

    See `CellSpace` for the arguments.
    """

    design: ClassVar[CellDesign] = CellDesign(
        ("skip_connect", "sep_conv_3x3", "sep_conv_5x5", "avg_pool_3x3", "max_pool_3x3"),
        num_nodes=5,
        merge_op="loose_end",
    )


class AmoebaNet(CellSpace):
    """Eight operations on five nodes; those nobody reads are the output. Source: arXiv:1802.01548.

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
    """Eight operations on five nodes, all of them in the output. Source: arXiv:1712.00559.

    See `CellSpace` for the arguments. The paper searches one cell and uses it at both strides: that is an
    architecture whose "normal" and "reduce" are alike.
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
