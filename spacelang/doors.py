"""Doors: each name that a package exports is written once, as an import in its `__init__`.

`from .home import Name as Name` makes a name public, to type checkers as here. Written under
`if TYPE_CHECKING:` it is imported when it is first used.
"""

from __future__ import annotations

import ast
import dis
import pkgutil
import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec, resolve_name
from types import FrameType
from typing import Any

from .errors import closest
from .plugins import LEAVES, loaded, plugins


@cache
def exports(package: str) -> dict[str, str]:
    """Return the module that each public name of a package comes from; the package is read, not imported."""
    spec = find_spec(package)
    source = spec.loader.get_source(package) if spec and spec.loader else None  # type: ignore[attr-defined]
    homes: dict[str, str] = {}
    for node in ast.walk(ast.parse(source or "")):
        if isinstance(node, ast.ImportFrom):
            home = resolve_name("." * node.level + (node.module or ""), package)
            homes |= {alias.name: home for alias in node.names if alias.name == alias.asname}
    return homes


def open_door(namespace: dict[str, Any]) -> None:
    """Let a package load its names when they are first used, and tell the nearest of a misspelt one.

    Names that other packages add (`plugins.py`) come after its own.

    Args:
        namespace: `globals()` of the package's `__init__`; gets `__all__`, `__dir__` and `__getattr__`. They
            are hidden from type checkers, which so report misspelt names too. Modules are not in `__all__`:
            `from spacelang import *` leaves the user's `nn` alone.
    """
    package = namespace["__name__"]
    homes = exports(package)

    def load(name: str) -> object:
        if name in homes:
            home = homes[name]
            value = import_module(f"{home}.{name}") if home == package else getattr(import_module(home), name)
        elif not name.startswith("_") and (point := plugins(package).get(name)):
            value = loaded(point)
        else:
            problem = f"module {package!r} has no attribute {name!r}{_hint(package, name)}"
            # Of an AttributeError `from package import name` would keep nothing but that it failed.
            raise (ImportError if _imports(sys._getframe(1)) else AttributeError)(problem)
        namespace[name] = value
        return value

    def listed() -> list[str]:
        return sorted({*namespace, *homes, *plugins(package)})

    names = sorted(name for name, home in homes.items() if home != package)
    namespace.update(__all__=names, __getattr__=load, __dir__=listed)


def _imports(frame: FrameType) -> bool:
    """Return whether a frame is about to take a name in `from package import name`."""
    return dis.opname[frame.f_code.co_code[frame.f_lasti]] == "IMPORT_FROM"


def _hint(package: str, name: str) -> str:
    """Return the end of a message on a name that a package lacks: where it is, or the nearest name."""
    if name.startswith("_"):
        return ""
    if find_spec(f"{package}.{name}"):
        return f"; it is a module of its own: `import {package}.{name}`"
    places = [door for door in public_packages() if name in exports(door)]
    places = places or [inner for inner in _packages_in(package) if name in exports(inner)]
    if places:
        return f"; it is in {' and '.join(places)}"
    everywhere = [f"{door}.{other}" for door in public_packages() for other in exports(door)]
    nearest = closest(name, [*exports(package), *plugins(package)], cutoff=0.6) or closest(name, everywhere)
    return nearest and f".{nearest}"


def public_packages() -> list[str]:
    """Return the packages that export something: the root, the leaves and those of the core."""
    root = __name__.rpartition(".")[0]
    leaves = (f"{root}.{name}" for name in LEAVES)
    return list(dict.fromkeys((root, *leaves, *_packages_in(root))))


def _packages_in(package: str) -> list[str]:
    """Return the packages directly inside a package."""
    modules = pkgutil.iter_modules(import_module(package).__path__, f"{package}.")
    return [module.name for module in modules if module.ispkg]
