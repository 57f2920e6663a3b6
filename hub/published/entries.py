"""Published architectures as data: YAML files in `architectures/`, read without building anything.

A file holds one entry, or a list of them: those of one paper. An entry holds `name`, `space` (a class of
`spacelang.hub`), `arguments` of its constructor, the `architecture` dict, `source`, `published` results with
their evidence, and `counts`: exact parameters and multiply-accumulates for constructor arguments put on top
of `arguments`. `weights`, of an entry that has some, holds `sha256` of a file and its `url`, or the name of a
`file` in `weights/`; everything else in it is for the reader.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Any

from spacelang.errors import SpaceError, quoted
from spacelang.files import load_yaml


@dataclass(frozen=True)
class Entry:
    """One published architecture."""

    name: str
    space: str
    arguments: Mapping[str, Any]
    architecture: Mapping[str, Any]
    source: str
    published: tuple[Mapping[str, Any], ...]
    counts: tuple[Mapping[str, Any], ...]
    weights: Mapping[str, Any] | None = None


def list_models(pattern: str = "*") -> list[str]:
    """Names of the published architectures, sorted; `pattern` takes shell wildcards, as in "sgas-*"."""
    return sorted(name for name in _catalogue() if fnmatchcase(name, pattern))


def architecture(name: str) -> dict[str, Any]:
    """A published architecture as a new architecture dict.

    Raises:
        SpaceError: unknown name; names the closest ones.
    """
    return dict(read_entry(name).architecture)


def read_entry(name: str) -> Entry:
    """Read one entry; an unknown name is a `SpaceError` that names the closest ones."""
    catalogue = _catalogue()
    if not isinstance(name, str) or name not in catalogue:
        near = get_close_matches(str(name), catalogue, n=3, cutoff=0.4)
        raise SpaceError(
            f"hub: unknown architecture {name!r}; "
            + (f"the closest names are {quoted(near)}, " if near else "")
            + f"and list_models() has all {len(catalogue)}."
        )
    return catalogue[name]


@cache
def _catalogue() -> dict[str, Entry]:
    """Every entry by name, from a source tree or an installed wheel alike."""
    found = [entry for file in _files() for entry in _read(file.read_text(encoding="utf-8"))]
    return {entry.name: entry for entry in found}


def _read(text: str) -> list[Entry]:
    data = load_yaml(text)
    return list(map(_entry, data if isinstance(data, list) else [data]))


def _entry(data: dict[str, Any]) -> Entry:
    return Entry(**data | {name: tuple(data.get(name, ())) for name in ("published", "counts")})


def _files() -> list[Any]:
    folder = files("spacelang.hub") / "architectures"
    return [item for item in folder.iterdir() if item.name.endswith(".yaml")]
