"""Tuples of NASNet, AmoebaNet, PNAS and ENAS, to and from architecture dicts.

`(0, 1, 'sep_conv_5x5', 'max_pool_3x3')` is a node: its two inputs and the operations on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spacelang.errors import SpaceError, short

from .genotypes import INPUTS, Genotype, Slot, from_genotype, to_genotype

Block = tuple[int, int, str, str]
"""(first input, second input, first operation, second operation) of a node."""


def from_blocks(normal: Sequence[Block], reduce: Sequence[Block]) -> dict[str, str | int]:
    """Translate the tuples (I1, I2, O1, O2) of two cells to an architecture dict; a fifth entry may be "add".

    Inputs 0 and 1 are the two cells before, the older one first. Source: PNAS, arXiv:1712.00559, section 3.1.

    Raises:
        SpaceError: a tuple is malformed, or reads a node that is not before its own.
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
