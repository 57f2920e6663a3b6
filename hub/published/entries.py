"""Published architectures as data: YAML files in `architectures/`, read without building anything.

A file holds the entries of one paper: one entry or a list. An entry holds `name`, `space` (a class of
`spacelang.hub`), `arguments` of its constructor, the `architecture` dict, `source`, `published` results with
their evidence, and `counts`: exact parameters and multiply-accumulates for constructor arguments added to
`arguments`. `weights`, which few entries have, holds the `sha256` of a file and its `url`, or the name of a
`file` in `weights/`; all other keys in it are for the reader.
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


def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """Return the names of the published architectures, sorted.

    Args:
        pattern: Shell-style wildcards, as in "sgas-*".
        pretrained: Whether to return those alone that `load(name, pretrained=True)` has weights for.
    """
    entries = _catalogue().items()
    return sorted(n for n, entry in entries if fnmatchcase(n, pattern) and (entry.weights or not pretrained))


def architecture(name: str) -> dict[str, Any]:
    """Return a published architecture as a new architecture dict.

    Raises:
        SpaceError: the name is unknown; names the closest ones.
    """
    return dict(read_entry(name).architecture)


def read_entry(name: str) -> Entry:
    """Read one entry; raise a `SpaceError` that names the closest ones if the name is unknown."""
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
    """Return every entry by name, from a source tree or an installed wheel."""
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
