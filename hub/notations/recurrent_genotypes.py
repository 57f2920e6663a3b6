"""The `Genotype(recurrent=[('relu', 0), ...], concat=range(1, 9))` notation of recurrent cells, in DARTS.

Text is read like any genotype (`genotypes.py`): parsed, never evaluated.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from spacelang.errors import SpaceError, require_one_of, short

from .genotypes import MAX_NODES, literal, parse_call

_FORM = "Genotype(recurrent=[('relu', 0), ...], concat=range(1, 9))"
_LABELS = ("cell/op_{}_0", "cell/input_{}_0")


def from_recurrent_genotype(text: str) -> dict[str, str | int]:
    """Translate the genotype of a recurrent cell to an architecture dict of `RNNCell` and `RecurrentLM`.

    The pair of node i is (activation, state that it reads); 0 is the first state, 1 the first node. `concat`
    belongs to the space (`merge_op`): all nodes, or those that no node reads.

    Raises:
        SpaceError: the text is malformed; the message names the place.
    """
    if not isinstance(text, str):
        raise SpaceError(f"from_recurrent_genotype takes a text; got a {type(text).__name__}.")
    call = parse_call(text)
    fields = {keyword.arg: keyword.value for keyword in call.keywords} if isinstance(call, ast.Call) else {}
    if sorted(map(str, fields)) != ["concat", "recurrent"] or len(call.args):  # type: ignore[attr-defined]
        raise SpaceError(f"a recurrent genotype must be written {_FORM}, got {short(text)}.")
    slots: Any = literal(fields["recurrent"], "recurrent", depth=3)
    arch: dict[str, str | int] = {}
    for node, slot in enumerate(slots if isinstance(slots, list) and slots else ["no list"], start=1):
        is_pair = isinstance(slot, list) and [type(part) for part in slot] == [str, int]
        if not is_pair or not 0 <= slot[1] < node:
            raise SpaceError(
                f"genotype: recurrent[{node - 1}] (node {node}) must be a pair like ('relu', 0) with a state "
                f"from 0 to {node - 1}, got {short(slot)}."
            )
        arch |= dict(zip((label.format(node) for label in _LABELS), slot, strict=True))
    given: Any = literal(fields["concat"], "concat", depth=2)
    concat = list(given[: MAX_NODES + 1]) if isinstance(given, list | range) else given  # may be endless
    if concat not in (known := [_nodes(arch, merge_op) for merge_op in ("all", "loose_end")]):
        raise SpaceError(
            f"genotype: concat must be all nodes, {known[0]}, or those that no node reads, {known[1]}; got "
            f"{short(concat)}."
        )
    return arch


def to_recurrent_genotype(
    architecture: Mapping[str, str | int], merge_op: Literal["all", "loose_end"] = "all"
) -> str:
    """Translate an architecture dict of `RNNCell` to its genotype; inverse of `from_recurrent_genotype`.

    Args:
        architecture: Architecture of `RNNCell` or `RecurrentLM`.
        merge_op: That of the space.

    Raises:
        SpaceError: labels are missing.
    """
    require_one_of("merge_op", merge_op, ("all", "loose_end"))
    count = len(architecture) // 2
    labels = [[label.format(node) for label in _LABELS] for node in range(1, count + 1)]
    missing = [label for pair in labels for label in pair if label not in architecture]
    if not count or missing:
        raise SpaceError(f"not the architecture dict of a recurrent cell: it has no {missing or labels}.")
    slots = [tuple(architecture[label] for label in pair) for pair in labels]
    return f"Genotype(recurrent={slots!r}, concat={_nodes(architecture, merge_op)!r})"


def _nodes(arch: Mapping[str, Any], merge_op: str) -> Sequence[int]:
    """Return the nodes in the output."""
    count = len(arch) // 2
    read = {arch[_LABELS[1].format(node)] for node in range(1, count + 1)} if merge_op != "all" else ()
    return [node for node in range(1, count + 1) if node not in read]
