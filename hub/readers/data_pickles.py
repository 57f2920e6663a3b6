"""Reader of pickles that hold data alone; no name in them is imported, and nothing named in them is called.

A pickle is a list of instructions. `pickletools` of the standard library decodes them without following them;
this module follows those that build numbers, texts, containers and NumPy's numbers and arrays. Any other
instruction, and any other name, is refused. Source: PEP 3154, and the module `pickletools`.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from spacelang.errors import SpaceError

_NUMBERS = re.compile(r"[biuf][1248]", re.ASCII)


class DType:
    """A kind of numbers, written by NumPy in two steps: code and size, then the order of bytes."""

    def __init__(self, code: str, *flags: Any) -> None:
        if not isinstance(code, str) or not _NUMBERS.fullmatch(code):
            raise ValueError(f"an array of {code!r} is not an array of numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Take the order of bytes."""
        self.dtype = self.dtype.newbyteorder(">" if state[1] == ">" else "<")


class Array:
    """An array, written by NumPy in two steps: an empty one, then shape, kind and bytes."""

    def __init__(self, *empty: Any) -> None:
        self.values: list[Any] = []

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Take shape, kind of numbers, order and bytes."""
        _, shape, kind, by_columns, data = state
        flat = np.frombuffer(data, _require(kind, DType).dtype)
        self.values = flat.reshape(shape, order="F" if by_columns else "C").tolist()


def scalar(kind: DType, data: bytes) -> Any:
    """Return a NumPy number as a Python number."""
    return np.frombuffer(data, _require(kind, DType).dtype).item()


def _encode(text: str, encoding: str) -> bytes:
    """Return bytes, which old pickles write as text."""
    return text.encode("latin-1" if encoding == "latin1" else "ascii")


def _require(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"expected {kind.__name__}")
    return value


NAMES: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": dict,
    "numpy.dtype": DType,
    "numpy.ndarray": Array,
    "_codecs.encode": _encode,
    **{f"numpy.{core}.multiarray.scalar": scalar for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray._reconstruct": Array for core in ("core", "_core")},
}
"""Every name that a file may hold, with what stands for it here."""


class _Builder:
    """Values under construction."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def since_mark(self) -> list[Any]:
        """Remove and return the values since the last mark."""
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def last(self, count: int) -> tuple[Any, ...]:
        """Remove and return the last values."""
        values = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        return values

    def fill(self, values: list[Any]) -> None:
        """Add values to the list, dict or set on top."""
        if isinstance(self.stack[-1], dict):
            self.stack[-1].update(zip(values[::2], values[1::2], strict=True))
        elif isinstance(self.stack[-1], set):
            self.stack[-1].update(values)
        else:
            _require(self.stack[-1], list).extend(values)

    def name(self, name: str) -> None:
        """Put what stands for a name on top."""
        if name not in NAMES:
            raise ValueError(f"it names {name!r}, and only data are read")
        self.stack.append(NAMES[name])

    def call(self) -> None:
        """Build with one of `NAMES`."""
        function, arguments = self.last(2)
        if not any(function is known for known in NAMES.values()):
            raise ValueError("it calls something that is not a name")
        self.stack.append(function(*arguments))

    def state(self) -> None:
        """Complete a kind of numbers or an array, which is then a list."""
        (state,) = self.last(1)
        _require(self.stack[-1], DType | Array).__setstate__(state)  # type: ignore[arg-type]


_LITERALS = [
    "INT",
    "LONG",
    "LONG1",
    "LONG4",
    "BININT",
    "BININT1",
    "BININT2",
    "FLOAT",
    "BINFLOAT",
    "UNICODE",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "STRING",
    "BINSTRING",
    "SHORT_BINSTRING",
    "BINBYTES",
    "SHORT_BINBYTES",
    "BINBYTES8",
]
_STEPS: dict[str, Callable[[_Builder, Any], object]] = {
    **dict.fromkeys(_LITERALS, lambda b, value: b.stack.append(value)),
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda b, _: None),
    "NONE": lambda b, _: b.stack.append(None),
    "NEWTRUE": lambda b, _: b.stack.append(True),
    "NEWFALSE": lambda b, _: b.stack.append(False),
    "EMPTY_LIST": lambda b, _: b.stack.append([]),
    "EMPTY_DICT": lambda b, _: b.stack.append({}),
    "EMPTY_SET": lambda b, _: b.stack.append(set()),
    "EMPTY_TUPLE": lambda b, _: b.stack.append(()),
    "MARK": lambda b, _: b.marks.append(len(b.stack)),
    "TUPLE": lambda b, _: b.stack.append(tuple(b.since_mark())),
    "TUPLE1": lambda b, _: b.stack.append(b.last(1)),
    "TUPLE2": lambda b, _: b.stack.append(b.last(2)),
    "TUPLE3": lambda b, _: b.stack.append(b.last(3)),
    "APPEND": lambda b, _: b.fill(list(b.last(1))),
    "SETITEM": lambda b, _: b.fill(list(b.last(2))),
    **dict.fromkeys(("APPENDS", "SETITEMS", "ADDITEMS"), lambda b, _: b.fill(b.since_mark())),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda b, place: b.memo.update({place: b.stack[-1]})),
    "MEMOIZE": lambda b, _: b.memo.update({len(b.memo): b.stack[-1]}),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda b, place: b.stack.append(b.memo[place])),
    "GLOBAL": lambda b, name: b.name(name.replace(" ", ".")),
    "STACK_GLOBAL": lambda b, _: b.name(".".join(b.last(2))),
    "REDUCE": lambda b, _: b.call(),
    "BUILD": lambda b, _: b.state(),
}


def read_data(pickled: bytes, name: str) -> Any:
    """Return the data of a pickle; NumPy's numbers are Python's, and its arrays `Array`s.

    Args:
        pickled: Content of the file.
        name: Name of the file, for messages.

    Raises:
        SpaceError: It is damaged, or holds more than data.
    """
    builder, place = _Builder(), 0
    try:
        for opcode, argument, position in pickletools.genops(pickled):
            place = position or 0
            if opcode.name not in _STEPS:
                raise ValueError(f"the instruction {opcode.name} builds more than data")
            _STEPS[opcode.name](builder, argument)
        (result,) = builder.stack
    except Exception as error:  # of whatever kind: the file may hold anything
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise SpaceError(
            f"{name!r} was refused at byte {place}, and nothing in it was run: {reason}."
        ) from error
    return result
