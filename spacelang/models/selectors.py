"""Choices in an existing model, and the paths at which they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeAlias

from torch import nn

from ..errors import SpaceError, closest, listed, short


@dataclass(frozen=True)
class Skip:
    """A choice whether a block is kept: "keep" or "skip". A skipped block returns its input.

    Args:
        label: Name of the decision; by default the block's path. Blocks of one label are one decision.
    """

    label: str | None = None


@dataclass(frozen=True)
class OneOf:
    """A choice among a layer and others in its place.

    Args:
        candidates: Modules by name, or functions that make one of the layer: `lambda conv: ...`. At several
            paths each has its own copy, with the device, precision and mode of the layer there.
        original: Name of the layer that is there; None leaves it out.
        label: Name of the decision; by default the layer's path.
    """

    candidates: Mapping[str, nn.Module | Callable[[nn.Module], nn.Module]]
    original: str | None = "original"
    label: str | None = None


@dataclass(frozen=True)
class Width:
    """A choice among sizes: the channels or features that a layer returns, or the heads of attention.

    Args:
        sizes: Numbers of channels or heads, or shares of those there are: 0.5 is half of them, 1.0 all.
        label: Name of the decision; by default the path it is given for.
    """

    sizes: Sequence[int | float]
    label: str | None = None


@dataclass(frozen=True)
class Depth:
    """A choice how many blocks of an `nn.Sequential` or `nn.ModuleList` are kept: the first ones.

    Args:
        depths: Numbers of blocks.
        label: Name of the decision; by default the container's path.
    """

    depths: Sequence[int]
    label: str | None = None


Selector: TypeAlias = Skip | OneOf | Width | Depth


@dataclass(frozen=True)
class Selected:
    """A choice at one place.

    Args:
        selector: The choice.
        path: Path of the module.
        attribute: Attribute of it that was named, such as "out_channels"; empty for the module itself.
    """

    selector: Selector
    path: str
    attribute: str = ""

    @property
    def label(self) -> str:
        """Name of the decision."""
        return self.selector.label or self.place

    @property
    def place(self) -> str:
        """The path, with the attribute."""
        return f"{self.path}.{self.attribute}" if self.attribute else self.path


def selected(model: nn.Module, choices: object) -> list[Selected]:
    """Return every choice with the places that its pattern matches.

    A pattern is a path in which `*` stands for any part of one name: `layer1.*`, `blocks.*.mlp.fc1`.

    Raises:
        SpaceError: A pattern matches nothing, or something is not a choice.
    """
    if not isinstance(choices, Mapping) or not choices:
        raise SpaceError(
            f"searchable got {short(choices)} for its choices; expected a dict of paths, such as "
            "{'layer1.*': Skip()}. suggest(model, example_inputs) writes one."
        )
    modules = dict(model.named_modules())
    del modules[""]
    found: list[Selected] = []
    for pattern, selector in choices.items():
        if not isinstance(selector, Skip | OneOf | Width | Depth):
            raise SpaceError(
                f"{pattern!r} got {short(selector)}; expected Skip(), OneOf({{...}}), Width([...]) or "
                "Depth([...])."
            )
        places = [Selected(selector, path) for path in modules if matches(str(pattern), path)]
        owner, _, attribute = str(pattern).rpartition(".")
        if not places and isinstance(selector, Width):
            places = [
                Selected(selector, path, attribute)
                for path, module in modules.items()
                if matches(owner, path) and type(getattr(module, attribute, None)) is int
            ]
        if not places:
            raise SpaceError(_nothing(str(pattern), modules))
        found += places
    seen: dict[tuple[str, bool], Selected] = {}
    for item in found:
        known = seen.setdefault((item.place, isinstance(item.selector, Width)), item)
        if known is not item:
            raise SpaceError(f"{item.place!r} is chosen twice, by {known.selector} and by {item.selector}.")
    return found


def matches(pattern: str, path: str) -> bool:
    """Return whether a pattern matches a path, name by name."""
    parts, names = pattern.split("."), path.split(".")
    return len(parts) == len(names) and all(map(fnmatchcase, names, parts))


def _nothing(pattern: str, modules: Iterable[str]) -> str:
    """Return the error of a pattern that matches nothing: what there is, as far as it leads."""
    parts, paths = pattern.split("."), [path.split(".") for path in modules]
    for known in range(len(parts) - 1, 0, -1):
        begin = ".".join(parts[:known])
        inside = [p[known] for p in paths if len(p) > known and matches(begin, ".".join(p[:known]))]
        if inside:
            return f"{pattern!r} matches nothing; in {begin!r} there are {listed(dict.fromkeys(inside))}."
    first = dict.fromkeys(path[0] for path in paths)
    return f"{pattern!r} matches nothing; the model has {listed(first)}.{closest(parts[0], first)}"
