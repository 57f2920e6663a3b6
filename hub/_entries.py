"""Published architectures as data: one YAML file each in `architectures/`, read without building anything.

An entry holds `name`, `space` (a class of `spacelang.hub`), `arguments` of its constructor, the
`architecture` dict, `source`, `published` results with their evidence, and `counts`: exact parameters and
multiply-accumulates for constructor arguments put on top of `arguments`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from inspect import signature
from typing import Any

from spacelang import model_context
from spacelang.errors import SpaceError, closest, quoted
from spacelang.results import load_yaml


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

    def build(self, space: type, *, pretrained: bool, overrides: Mapping[str, Any]) -> Any:
        """Build the entry as a plain network of its space class; errors are `SpaceError`."""
        if self.space not in (base.__name__ for base in space.__mro__):
            raise SpaceError(f"{self.name!r} is an architecture of {self.space}, not of {space.__name__}.")
        if pretrained:
            raise SpaceError(
                f"no weights are published for {self.name!r}. Type pretrained=False and train the network."
            )
        known = list(signature(space.__init__).parameters)[1:]  # type: ignore[misc]
        for argument in overrides:
            if argument not in known:
                names = f"it takes {quoted(known)}.{closest(argument, known)}"
                raise SpaceError(f"{self.space} takes no argument {argument!r}; {names}")
        with model_context(dict(self.architecture)):
            return space(**{**self.arguments, **overrides})


def list_models(pattern: str = "*") -> list[str]:
    """Names of the published architectures, sorted; `pattern` takes shell wildcards, as in "darts-*"."""
    return sorted(name for name in _files() if fnmatchcase(name, pattern))


def architecture(name: str) -> dict[str, Any]:
    """A published architecture as a new architecture dict.

    Raises:
        SpaceError: unknown name; names the closest one.
    """
    return dict(read_entry(name).architecture)


def read_entry(name: str) -> Entry:
    """Read one entry; an unknown name is a `SpaceError` that names the closest one."""
    names = list_models()
    if name not in names:
        raise SpaceError(
            f"hub: unknown architecture {name!r}; known names are {quoted(names)}.{closest(name, names)}"
        )
    return _read(name)


@cache
def _read(name: str) -> Entry:
    data = load_yaml(_files()[name].read_text(encoding="utf-8"))
    counts, published = tuple(data.pop("counts", ())), tuple(data.pop("published", ()))
    return Entry(**data, counts=counts, published=published)


def _files() -> dict[str, Any]:
    """Data files by entry name, from a source tree or an installed wheel alike."""
    folder = files("spacelang.hub") / "architectures"
    return {item.name.removesuffix(".yaml"): item for item in folder.iterdir() if item.name.endswith(".yaml")}
