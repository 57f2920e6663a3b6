"""YAML for architecture dicts: exact round trips, a small safe subset, every problem a SpaceError.

The subset is JSON's data in YAML's clothes: mappings and lists of plain or quoted scalars. A plain scalar is
read as JSON (and YAML 1.2) would: `true`, `null`, `12`, `1e-3` are what they look like, while `on`, `no`,
`012`, `1_000` and `2020-01-01` stay strings. Anchors, aliases, tags, duplicate keys and second documents are
refused.
Nothing is ever constructed from a tag: the parser's events are turned into Python data here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ..errors import SpaceError
from .plain import MAX_DEPTH, plain

MAX_BYTES = 4 * 1024 * 1024

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_BASE_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z", re.ASCII)
_FLOAT = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?\Z", re.ASCII)
_SPECIAL_FLOAT = re.compile(r"(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z")
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


def load_yaml(path_or_text: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> Any:
    """Read one YAML document from a file or from a text.

    Args:
        path_or_text: A `Path`, or a str. A str without a line break that ends in `.yaml` or `.yml` is a path;
            any other str is the YAML itself.
        max_bytes: Longest document read, in bytes of UTF-8.

    Returns:
        dicts, lists, str, int, float, bool and None.

    Raises:
        SpaceError: The file cannot be read, or the document is empty, too long, not YAML, nested deeper than
            64, or uses an anchor, alias, tag, duplicate key or second document; names file, line and column.
    """
    text, source = _read(path_or_text, max_bytes)
    try:
        return _build(yaml.parse(text, Loader=_LOADER), source)
    except yaml.YAMLError as error:
        raise SpaceError(f"{source} is not valid YAML: {_one_line(error)}") from error
    except (ValueError, OverflowError, RecursionError, MemoryError) as error:
        if isinstance(error, SpaceError):
            raise
        raise SpaceError(f"{source} is not valid YAML: {_one_line(error)}") from error


def dump_yaml(data: object) -> str:
    """Write `data` as one YAML document that `load_yaml` reads back exactly; tuples become lists.

    Strings that YAML 1.1 or 1.2 would read as something else ('on', '012', '1e-3', 'null') are quoted, so
    that any other reader gives the same data. Key order is kept; lists of scalars are written on one line.

    Raises:
        SpaceError: A value that is not str, int, float, bool, None, list, tuple or dict; names its place.
    """
    try:
        return str(
            yaml.dump(
                plain(data),
                Dumper=_Dumper,
                sort_keys=False,
                allow_unicode=True,
                default_flow_style=False,
                width=2**30,
            )
        )
    except (yaml.YAMLError, UnicodeError) as error:
        raise SpaceError(f"data cannot be written as YAML: {_one_line(error)}") from error


def _read(path_or_text: str | os.PathLike[str], max_bytes: int) -> tuple[str, str]:
    """Return the document and the name error messages give it."""
    if isinstance(path_or_text, str) and not _looks_like_path(path_or_text):
        size = len(path_or_text.encode("utf-8", "surrogatepass"))
        if size > max_bytes:
            raise SpaceError(f"the YAML text has {size} bytes; at most {max_bytes} are read.")
        return path_or_text, "the YAML text"
    if not isinstance(path_or_text, str | os.PathLike):
        given = type(path_or_text).__name__
        raise SpaceError(f"load_yaml got a {given}; expected a path or a str of YAML.")
    try:
        path = Path(path_or_text)
        with path.open("rb") as file:
            raw = file.read(max_bytes + 1)
    except (OSError, ValueError, TypeError) as error:  # ValueError: a null byte in the name
        raise SpaceError(f"cannot read {os.fspath(path_or_text)!r}: {_one_line(error)}") from error
    if len(raw) > max_bytes:
        raise SpaceError(f"'{path}' is longer than {max_bytes} bytes, the most that are read.")
    try:
        return raw.decode("utf-8-sig"), f"'{path}'"
    except UnicodeDecodeError as error:
        raise SpaceError(f"'{path}' is not a text file: byte {error.start} is not UTF-8.") from error


def _looks_like_path(text: str) -> bool:
    return "\n" not in text and text.endswith((".yaml", ".yml"))


def _build(events: Iterator[Any], source: str) -> Any:
    """Turn parser events into data with a stack of open containers, so depth costs no recursion."""
    root: list[Any] = []
    stack: list[_Container] = [_Container(root, None)]
    documents = 0
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise _refusal(source, event, "a second document; one file holds one")
        elif isinstance(event, yaml.NodeEvent):
            _refuse_unsafe(event, source)
            if isinstance(event, yaml.ScalarEvent):
                stack[-1].add(_scalar(event), event, source)
                continue
            if len(stack) > MAX_DEPTH:
                raise _refusal(source, event, f"nesting deeper than {MAX_DEPTH} levels")
            container = _Container([] if isinstance(event, yaml.SequenceStartEvent) else {}, event)
            stack[-1].add(container.data, event, source)
            stack.append(container)
        elif isinstance(event, yaml.CollectionEndEvent):
            stack.pop()
    if not root:
        raise SpaceError(f"{source} is empty.")
    return root[0]


class _Container:
    """A list or mapping being filled; a mapping takes key and value in turn."""

    def __init__(self, data: list[Any] | dict[Any, Any], event: Any) -> None:
        self.data = data
        self.event = event
        self.key: Any = None
        self.has_key = False

    def add(self, value: Any, event: Any, source: str) -> None:
        if isinstance(self.data, list):
            self.data.append(value)
        elif self.has_key:
            self.data[self.key] = value
            self.has_key = False
        elif isinstance(value, list | dict):
            raise _refusal(source, event, "a list or mapping as a key; keys are scalars")
        elif value in self.data:
            raise _refusal(source, event, f"the key {value!r} twice in one mapping")
        else:
            self.key, self.has_key = value, True


def _refuse_unsafe(event: Any, source: str) -> None:
    if isinstance(event, yaml.AliasEvent):
        raise _refusal(source, event, f"the alias *{event.anchor}; write the value out")
    if event.anchor is not None:
        raise _refusal(source, event, f"the anchor &{event.anchor}; anchors are not read")
    if event.tag is not None:
        raise _refusal(source, event, f"the tag {event.tag!r}; quote a value to make it a string")


def _refusal(source: str, event: Any, what: str) -> SpaceError:
    mark = event.start_mark
    return SpaceError(f"{source}, line {mark.line + 1}, column {mark.column + 1}: {what}.")


def _scalar(event: Any) -> str | int | float | bool | None:
    """Read a scalar; only a plain (unquoted) one is anything but a string."""
    text: str = event.value
    if not event.implicit[0]:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INT.match(text):
        return int(text)
    if _FLOAT.match(text):
        return float(text)
    if _SPECIAL_FLOAT.match(text):
        return float(text.lower().replace(".", ""))
    return text


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__


class _Dumper(_BASE_DUMPER):  # type: ignore[misc]
    """Quotes what YAML 1.1 or this module would misread; writes no anchors; lists of scalars in one line."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _represent_list(dumper: Any, data: list[Any]) -> Any:
    leaf = not any(isinstance(value, list | dict) for value in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=leaf)


_Dumper.add_representer(list, _represent_list)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
