"""The published `Genotype(...)` notation of a cell architecture, to and from architecture dicts.

Papers, logs and repositories hold genotypes as text. The text is parsed with `ast` and a strict walk over
literals; nothing is ever evaluated. Source of the notation: DARTS, arXiv:1806.09055.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeGuard, cast

from spacelang.errors import SpaceError, closest, quoted, require_one_of, short

CELLS = ("normal", "reduce")
INPUTS = 2  # a cell sees the outputs of the two cells before it
SLOTS = 2  # every node sums two operations
MAX_TEXT = 10_000  # characters; a published genotype has about 700
MAX_NODES = 64
_ALPHABET = re.compile(r"[A-Za-z0-9_\s\[\](),='\"-]*", re.ASCII)
_FORM = "Genotype(normal=[('sep_conv_3x3', 1), ...], normal_concat=[2, ...], reduce=..., reduce_concat=...)"
_OPERATION = re.compile(r"[A-Za-z_]\w{0,63}", re.ASCII)

Slot = tuple[str, int]
"""(operation name, input): input 0 and 1 are the two cells before, 2 and up the nodes of this cell."""


@dataclass(frozen=True, repr=False)
class Genotype:
    """A normal and a reduction cell, two (operation, input) slots per node; prints as the published notation.

    Lists are accepted and kept as tuples. `*_concat` is every node, as in the DARTS space, or the nodes that
    no node reads, as in NASNet's.

    Raises:
        SpaceError: a slot is not (name, earlier node), a cell has an odd number of slots, the two cells
            differ in their number of nodes, or a concat is neither of the two.
    """

    normal: tuple[Slot, ...]
    normal_concat: tuple[int, ...]
    reduce: tuple[Slot, ...]
    reduce_concat: tuple[int, ...]

    def __post_init__(self) -> None:
        for cell in CELLS:
            slots = _checked_slots(cell, getattr(self, cell))
            object.__setattr__(self, cell, slots)
            concat = _checked_concat(cell, getattr(self, f"{cell}_concat"), slots)
            object.__setattr__(self, f"{cell}_concat", concat)
        if len(self.normal) != len(self.reduce):
            counts = f"normal has {len(self.normal) // SLOTS} and reduce {len(self.reduce) // SLOTS}"
            raise SpaceError(f"genotype: both cells must have the same number of nodes, {counts}.")

    def __repr__(self) -> str:
        values = (f"{field.name}={list(getattr(self, field.name))!r}" for field in fields(self))
        return f"Genotype({', '.join(values)})"

    @classmethod
    def parse(cls, text: str) -> Genotype:
        """Read the published notation, `Genotype(normal=[('sep_conv_3x3', 1), ...], ...)`.

        A leading `NAME = ` and `range(2, 6)` are accepted.

        Raises:
            SpaceError: anything else, however malformed.
        """
        return cls(**parse_fields(text))


def from_genotype(genotype: Genotype | str) -> dict[str, str | int]:
    """Translate a genotype, or its text, to an architecture dict of DARTS or a space of its kind.

    Slot k of node i becomes `{cell}/op_{i}_{k}` and `{cell}/input_{i}_{k}`; the order is kept. Operation
    names are not compared with any space here; the space's `validate` does that. The nodes that a cell
    concatenates belong to the space (`merge_op`), not to the architecture.

    Raises:
        SpaceError: the genotype is malformed; the message names the place.
    """
    if isinstance(genotype, str):
        genotype = Genotype.parse(genotype)
    if not isinstance(genotype, Genotype):
        got = type(genotype).__name__
        raise SpaceError(
            f"from_genotype takes a Genotype or its text; got a {got}. Type: from_genotype(str(genotype))."
        )
    architecture: dict[str, str | int] = {}
    for cell in CELLS:
        for position, (operation, source) in enumerate(getattr(genotype, cell)):
            node, slot = INPUTS + position // SLOTS, position % SLOTS
            architecture[f"{cell}/op_{node}_{slot}"] = operation
            architecture[f"{cell}/input_{node}_{slot}"] = source
    return architecture


def to_genotype(
    architecture: Mapping[str, object], merge_op: Literal["all", "loose_end"] = "all"
) -> Genotype:
    """Translate an architecture dict to a genotype; `from_genotype` is its exact inverse.

    Args:
        architecture: Architecture of DARTS, or of a space of its kind.
        merge_op: Nodes that the space concatenates: "all" (DARTS, PNAS), or the nodes that no node reads
            ("loose_end": NASNet, ENAS, AmoebaNet).

    Raises:
        SpaceError: labels are missing or do not belong to a genotype (all listed), or a value does not fit.
    """
    if not isinstance(architecture, Mapping):
        raise SpaceError(f"to_genotype takes an architecture dict; got a {type(architecture).__name__}.")
    n_nodes = max(1, -(-len(architecture) // (len(CELLS) * SLOTS * 2)))
    places = [(node, slot) for node in range(INPUTS, INPUTS + n_nodes) for slot in range(SLOTS)]
    _check_labels(architecture, places)
    cells = {
        cell: [
            (architecture[f"{cell}/op_{node}_{slot}"], _single(architecture[f"{cell}/input_{node}_{slot}"]))
            for node, slot in places
        ]
        for cell in CELLS
    }
    require_one_of("merge_op", merge_op, ("all", "loose_end"))
    normal, reduce = (_checked_slots(cell, cells[cell]) for cell in CELLS)
    concat = _all_nodes if merge_op == "all" else _loose_ends
    return Genotype(normal, tuple(concat(normal)), reduce, tuple(concat(reduce)))


def _check_labels(architecture: Mapping[str, object], places: list[tuple[int, int]]) -> None:
    """Report every missing and every foreign label at once."""
    expected = [
        f"{cell}/{kind}_{node}_{slot}" for cell in CELLS for node, slot in places for kind in ("op", "input")
    ]
    missing = [label for label in expected if label not in architecture]
    unknown = [label for label in architecture if label not in set(expected)]
    problems = [f"missing labels {quoted(missing)}"] if missing else []
    problems += [f"unknown label {label!r}.{closest(label, expected)}".rstrip(".") for label in unknown[:4]]
    if problems:
        raise SpaceError(f"not the architecture dict of a DARTS cell space: {'; '.join(problems)}.")


def _single(value: object) -> object:
    """Return an input, which may be written as a one-element list."""
    return value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value


def _checked_slots(cell: str, slots: object) -> tuple[Slot, ...]:
    """Return a cell's slots as (operation, input) pairs; raise a `SpaceError` for the first wrong one."""
    if not _is_sequence(slots) or not slots or len(slots) % SLOTS or len(slots) > MAX_NODES * SLOTS:
        wanted = f"{SLOTS} (operation, input) pairs for each of 1 to {MAX_NODES} nodes"
        raise SpaceError(f"genotype: {cell} must list {wanted}, got {short(slots)}.")
    return tuple(_checked_slot(cell, position, slot) for position, slot in enumerate(slots))


def _checked_slot(cell: str, position: int, slot: object) -> Slot:
    node = INPUTS + position // SLOTS
    where = f"genotype: {cell}[{position}] (node {node})"
    if not _is_sequence(slot) or len(slot) != 2:
        raise SpaceError(f"{where} must be a pair like ('sep_conv_3x3', 1), got {short(slot)}.")
    operation, source = slot
    if not isinstance(operation, str) or not _OPERATION.fullmatch(operation):
        raise SpaceError(f"{where} must name an operation like 'sep_conv_3x3', got {short(operation)}.")
    if type(source) is not int or not 0 <= source < node:
        raise SpaceError(f"{where} has inputs 0 to {node - 1}, got {short(source)}.")
    return operation, source


def _all_nodes(slots: Sequence[Slot]) -> list[int]:
    return list(range(INPUTS, INPUTS + len(slots) // SLOTS))


def _loose_ends(slots: Sequence[Slot]) -> list[int]:
    """Return the nodes that no node reads."""
    read = {source for _, source in slots}
    return [node for node in _all_nodes(slots) if node not in read]


def _checked_concat(cell: str, concat: object, slots: Sequence[Slot]) -> tuple[int, ...]:
    nodes, loose = _all_nodes(slots), _loose_ends(slots)
    given = concat[: MAX_NODES + 1] if isinstance(concat, range) else concat  # a range may be endless
    fits = isinstance(given, range) or (_is_sequence(given) and all(type(node) is int for node in given))
    if not fits or list(cast("Sequence[int]", given)) not in (nodes, loose):
        other = "" if loose == nodes else f", or those that no node reads, {loose}"
        raise SpaceError(f"genotype: {cell}_concat must be all nodes, {nodes}{other}, got {short(concat)}.")
    return tuple(cast("Sequence[int]", given))


def _is_sequence(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, (list, tuple))


def parse_fields(text: str) -> dict[str, Any]:
    """Read `[NAME =] Genotype(field=value, ...)` into {field: value}.

    Raises:
        SpaceError: anything else, however malformed.
    """
    call = parse_call(text)
    named = isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Genotype"
    if not isinstance(call, ast.Call) or not named or call.args:
        raise SpaceError(f"genotype must be written {_FORM}, got {short(text)}.")
    names = [keyword.arg for keyword in call.keywords]
    expected = [field.name for field in fields(Genotype)]
    if sorted(str(name) for name in names) != sorted(expected):
        raise SpaceError(f"genotype must have the fields {quoted(expected)}, got {short(names)}.")
    return {str(keyword.arg): literal(keyword.value, str(keyword.arg), depth=3) for keyword in call.keywords}


def parse_call(text: str) -> ast.expr:
    """Return the one expression of the text; raise a `SpaceError` for text that Python cannot read."""
    if len(text) > MAX_TEXT:
        raise SpaceError(f"genotype text has {len(text)} characters, at most {MAX_TEXT} are read.")
    if not _ALPHABET.fullmatch(text):
        raise SpaceError(f"genotype must be written {_FORM}, got other characters in {short(text)}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the parser warns of odd literals
            body = ast.parse(text.strip()).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else type(error).__name__
        raise SpaceError(f"genotype must be written {_FORM}; Python cannot read it: {reason}.") from None
    statement = body[0] if len(body) == 1 else None
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        return statement.value
    if isinstance(statement, ast.Expr):
        return statement.value
    raise SpaceError(f"genotype must be written {_FORM}, got {short(text)}.")


def literal(node: ast.expr, field: str, depth: int) -> object:
    """Turn a list, tuple, text, integer, `range(a, b)` or `list(...)` of these into its value."""
    if isinstance(node, ast.Constant) and type(node.value) in (str, int):
        return node.value
    if isinstance(node, (ast.List, ast.Tuple)) and depth > 0:
        return [literal(element, field, depth - 1) for element in node.elts]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords and depth > 0:
        arguments = [literal(argument, field, depth - 1) for argument in node.args]
        if node.func.id == "range" and 1 <= len(arguments) <= 2 and all(type(a) is int for a in arguments):
            return range(*cast("list[int]", arguments))
        if node.func.id == "list" and len(arguments) == 1:
            return arguments[0]
    raise SpaceError(
        f"genotype: {field} may hold lists, tuples, names in quotes, integers and range(a, b); "
        f"got something else at line {node.lineno}, column {node.col_offset + 1}."
    )
