"""The `Genotype(normal=[('sep_conv_3x3', 2, 0), ...], ...)` notation of FairDARTS: operation, node, input.

Text is read like any genotype (`genotypes.py`): parsed, never evaluated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spacelang.errors import SpaceError, short

from .genotypes import CELLS, INPUTS, parse_fields

SPARSE_NODES = 4


def from_sparse_genotype(text: str) -> dict[str, str]:
    """Translate a FairDARTS genotype to an architecture dict of `FairDARTS`.

    Slots are (operation, node, input). `*_concat` follows from the slots and is not read.

    Raises:
        SpaceError: the text is malformed, or names an edge that does not exist, or an edge twice.
    """
    if not isinstance(text, str):
        raise SpaceError(f"from_sparse_genotype takes a text; got a {type(text).__name__}.")
    given = parse_fields(text)
    edges = [(source, node) for node in range(INPUTS, INPUTS + SPARSE_NODES) for source in range(node)]
    arch = {f"{cell}/{source}_{node}": "none" for cell in CELLS for source, node in edges}
    for cell in CELLS:
        for position, slot in enumerate(given[cell] if isinstance(given[cell], list) else ["no list"]):
            label = _sparse_label(cell, slot)
            if arch.get(label) != "none":
                wanted = f"(operation, node, input), one for an edge of nodes {INPUTS} to {edges[-1][1]}"
                raise SpaceError(f"genotype: {cell}[{position}] must be {wanted}; got {short(slot)}.")
            arch[label] = slot[0]
    return arch


def _sparse_label(cell: str, slot: Any) -> str:
    """Return the label of a slot's edge, or an empty string."""
    if not isinstance(slot, list) or [type(part) for part in slot] != [str, int, int]:
        return ""
    return f"{cell}/{slot[2]}_{slot[1]}"


def to_sparse_genotype(architecture: Mapping[str, str]) -> str:
    """Translate an architecture dict of `FairDARTS` to its genotype; inverse of `from_sparse_genotype`."""
    parts = []
    for cell in CELLS:
        edges: list[tuple[str, int, int]] = []
        for node in range(INPUTS, INPUTS + SPARSE_NODES):
            into = [(architecture[f"{cell}/{source}_{node}"], node, source) for source in range(node)]
            edges += [edge for edge in into if edge[0] != "none"]
        nodes = list(dict.fromkeys(node for _, node, _ in edges))
        parts.append(f"{cell}={edges!r}, {cell}_concat={nodes!r}")
    return f"Genotype({', '.join(parts)})"
