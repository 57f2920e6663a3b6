"""Other published notations of cells, to and from architecture dicts; parsed, never evaluated.

| notation | of |
|---|---|
| `[(0, 1, 'sep_conv_5x5', 'max_pool_3x3'), ...]` | a NASNet cell: two inputs and two operations a node |
| `Genotype(normal=[('sep_conv_3x3', 2, 0), ...], ...)` | a FairDARTS cell: operation, node, input |
| `\\|nor_conv_3x3~0\\|+\\|none~0\\|skip_connect~1\\|+...` | a NAS-Bench-201 cell: the edges into each node |
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from spacelang.errors import SpaceError, short

from .genotypes import CELLS, INPUTS, Genotype, Slot, from_genotype, parse_fields, to_genotype
from .nasbench201 import NODES
from .nasbench201 import OPERATIONS as NASBENCH201_OPERATIONS

Block = tuple[int, int, str, str]
"""(first input, second input, first operation, second operation) of a node."""

SPARSE_NODES = 4
_EDGE = re.compile(r"(\w{1,64})~(\d)", re.ASCII)


def from_blocks(normal: Sequence[Block], reduce: Sequence[Block]) -> dict[str, str | int]:
    """Translate the tuples (I1, I2, O1, O2) of two cells to an architecture dict; a fifth may say "add".

    Inputs 0 and 1 are the two cells before, the older one first. Source: PNAS, arXiv:1712.00559, section 3.1.

    Raises:
        SpaceError: a tuple is malformed, or reads a node that does not come before its own.
    """
    slots = {"normal": _slots("normal", normal), "reduce": _slots("reduce", reduce)}
    concat = {cell: range(INPUTS, INPUTS + len(found) // 2) for cell, found in slots.items()}
    return from_genotype(Genotype(slots["normal"], concat["normal"], slots["reduce"], concat["reduce"]))  # type: ignore[arg-type]


def to_blocks(architecture: Mapping[str, object]) -> tuple[list[Block], list[Block]]:
    """Translate an architecture dict to the tuples of its two cells; inverse of `from_blocks`."""
    genotype = to_genotype(architecture)

    def blocks(slots: tuple[Slot, ...]) -> list[Block]:
        pairs = zip(slots[::2], slots[1::2], strict=True)
        return [(i1, i2, o1, o2) for (o1, i1), (o2, i2) in pairs]

    return blocks(genotype.normal), blocks(genotype.reduce)


def _slots(cell: str, blocks: Sequence[Block]) -> tuple[Slot, ...]:
    slots: list[Slot] = []
    for position, block in enumerate(blocks):
        if (
            not isinstance(block, list | tuple)
            or len(block) not in (4, 5)
            or block[4:] not in ((), ("add",), ["add"])
        ):
            wanted = "(input, input, operation, operation)"
            raise SpaceError(f"from_blocks: {cell}[{position}] must be {wanted}, got {short(block)}.")
        slots += [(block[2], block[0]), (block[3], block[1])]
    return tuple(slots)


def from_sparse_genotype(text: str) -> dict[str, str]:
    """Translate a FairDARTS genotype to an architecture dict of `FairDARTS`.

    Slots are (operation, node, input); what `*_concat` says follows from them and is not looked at.

    Raises:
        SpaceError: the text is malformed, or names an edge twice or one that does not exist.
    """
    if not isinstance(text, str):
        raise SpaceError(f"from_sparse_genotype takes a text, got {type(text).__name__}.")
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
    """The label of a slot's edge, or an empty string."""
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


def from_nasbench201(text: str) -> dict[str, str]:
    """Translate a NAS-Bench-201 string to an architecture dict of `NASBench201`.

    Raises:
        SpaceError: the text is malformed; says where.
    """
    form = "'|op~0|+|op~0|op~1|+|op~0|op~1|op~2|'"
    rows = text.split("+") if isinstance(text, str) else []
    if len(rows) != NODES - 1:
        raise SpaceError(f"a NAS-Bench-201 cell is written {form}, got {short(text)}.")
    arch: dict[str, str] = {}
    for node, row in enumerate(rows, start=1):
        edges = [_EDGE.fullmatch(edge) for edge in row.strip().split("|")[1:-1]]
        found = [(match[1].removeprefix("nor_"), int(match[2])) for match in edges if match]
        known = all(operation in NASBENCH201_OPERATIONS for operation, _ in found)
        if [source for _, source in found] != list(range(node)) or len(edges) != node or not known:
            raise SpaceError(f"a NAS-Bench-201 cell is written {form}; node {node} is {short(row)}.")
        arch |= {f"cell/{source}_{node}": operation for operation, source in found}
    return arch


def to_nasbench201(architecture: Mapping[str, str]) -> str:
    """Translate an architecture dict of `NASBench201` to its string; inverse of `from_nasbench201`."""
    rows = []
    for node in range(1, NODES):
        operations = (architecture[f"cell/{source}_{node}"] for source in range(node))
        names = (f"nor_{name}" if name.startswith("conv") else name for name in operations)
        rows.append("|" + "".join(f"{name}~{source}|" for source, name in enumerate(names)))
    return "+".join(rows)
