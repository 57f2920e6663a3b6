"""S1 to S4: smaller cells of DARTS, in which searches tend to choose skip connections alone.

Source: Understanding and Robustifying Differentiable Architecture Search, arXiv:1909.09656, section 3.
"""

from __future__ import annotations

from .cell_space import CellDesign

_NAMES = {
    "skip": "skip_connect",
    "sep3": "sep_conv_3x3",
    "dil3": "dil_conv_3x3",
    "dil5": "dil_conv_5x5",
    "max": "max_pool_3x3",
    "avg": "avg_pool_3x3",
}

# The candidates of each edge, node by node and source by source.
_NORMAL = """
skip,dil3 skip,dil5
skip,dil5 skip,sep3 skip,dil3
max,skip skip,sep3 skip,sep3 skip,dil3
skip,sep3 max,skip skip,dil3 dil3,dil5 dil3,dil5
"""
_REDUCE = """
max,avg max,dil3
max,avg max,avg skip,dil5
max,avg max,sep3 skip,dil3 skip,dil5
max,avg max,avg skip,dil5 skip,dil5 skip,dil5
"""


def _edges(text: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(_NAMES[name] for name in edge.split(",")) for edge in text.split())


def _design(*operations: str, **edges: tuple[tuple[str, ...], ...]) -> CellDesign:
    return CellDesign(operations, num_nodes=4, merge_op="all", distinct_inputs=True, edges=edges)


SMALLER = {
    "s1": _design(*_NAMES.values(), normal=_edges(_NORMAL), reduce=_edges(_REDUCE)),
    "s2": _design("skip_connect", "sep_conv_3x3"),
    "s3": _design("none", "skip_connect", "sep_conv_3x3"),
    "s4": _design("noise", "sep_conv_3x3"),
}
"""Designs by name. S1 has two candidates on each edge, those of another search that were the strongest."""
