"""Networks that are chains, read as stages of blocks with their choices, kernels and widths."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..graph.reading import region_graph
from ..graph.regions import Place, Region
from ..language import Decision, Space, model_context
from ..randomness import global_generators_kept
from .painting import value_text

_LEAST = 3  # blocks of a chain that is worth drawing
_SKIP = re.compile(r"(?:^|.*[/_])skip_(\d+)$")
_ANY = "adds any earlier outputs"
_UNTOLD = ("op", "layer", "block", "stage")  # words of a label that say nothing beside the block itself


@dataclass(frozen=True)
class ChainBlock:
    """One block of a chain.

    Args:
        lines: Choices in it, one a line.
        path: Path of its module in the space.
        kernel: Largest kernel of its convolutions; None where there is none or nothing is chosen yet.
        width: Channels or features that it returns, likewise.
        skips: Numbers of earlier blocks of its stage whose outputs it adds.
        times: How often it stands there, one after the other, in words; empty for once.
    """

    lines: tuple[str, ...]
    path: str
    kernel: int | None = None
    width: int | None = None
    skips: tuple[int, ...] = ()
    times: str = ""


@dataclass(frozen=True)
class ChainStage:
    """Blocks that follow one another, with a heading."""

    title: str
    blocks: tuple[ChainBlock, ...]


@dataclass(frozen=True)
class Chain:
    """Stages in the order in which features pass them, and the labels that they show."""

    stages: tuple[ChainStage, ...]
    labels: frozenset[str]


@dataclass
class _Unit:
    """A block while it is read: its place, and the labels that it is the first to use."""

    stage: str
    path: str
    labels: list[str] = field(default_factory=list)


def chain_of(space: Space, arch: Mapping[str, Any] | None = None) -> Chain | None:
    """Return the chain of a space, or of one of its architectures; None where the space has too few blocks.

    A block is one repetition of a `Repeat`, an entry of a list of modules, or a module with choices. A choice
    that several blocks share, such as a width, is written where it is used first.

    Args:
        space: The space; of the graph only what lies outside cells is read.
        arch: Canonical architecture.
    """
    units, depths = _units(space, arch)
    if not units or len(_units(space, None)[0]) < _LEAST:
        return None
    decisions = space.decision_space.by_label
    shown = {label for unit in units for label in unit.labels} | set(depths.values())
    model = None if arch is None else _frozen(space, arch)
    stages = []
    for name, run in itertools.groupby(units, key=lambda unit: unit.stage):
        own = list(run)
        blocks = [_block(unit, own, decisions, arch, model, depths) for unit in own]
        depth = depths.get(name)
        if arch is None:
            blocks = _collapsed(blocks, decisions[depth] if depth else None)
        title = f"{depth} = {arch[depth]}" if arch is not None and depth else depth or name
        stages.append(ChainStage(title, tuple(blocks)))
    return Chain(tuple(stages), frozenset(shown))


def _units(space: Space, arch: Mapping[str, Any] | None) -> tuple[list[_Unit], dict[str, str]]:
    """Return the blocks in order, and the label of the depth of each `Repeat`, by its path."""
    units: dict[str, _Unit] = {}
    depths: dict[str, str] = {}
    told: set[str] = set()
    for region in region_graph(space).regions:
        for place in region.places:
            if region.is_cell or (arch is not None and not place.condition.holds(arch)):
                continue
            if region.type == "Repeat" and place.inside is None:
                if region.label:
                    depths[place.path] = region.label
                    told.add(region.label)
                continue
            stage, path = _home(place)
            unit = units.setdefault(path, _Unit(stage, path))
            new = [label for label in _labels(region) if label not in told]
            unit.labels += dict.fromkeys(new)
            told.update(new)
    repeated = tuple(f"{path}." for path in depths)
    kept = [unit for unit in units.values() if unit.labels or unit.path.startswith(repeated)]
    return kept, depths


def _home(place: Place) -> tuple[str, str]:
    """Return the stage and the block that a place belongs to, as paths."""
    outer = place
    while outer.within is not None and outer.within.inside is not None:
        outer = outer.within
    if outer.inside is not None and outer.inside.kind == "block" and outer.within is not None:
        return outer.within.path, f"{outer.within.path}.blocks.{outer.inside.key.removeprefix('block_')}"
    parts = place.path.split(".")
    number = next((at for at, part in enumerate(parts) if part.isdigit()), None)
    if number is None:
        return parts[0], place.path
    return ".".join(parts[:number]), ".".join(parts[: number + 1])


def _labels(region: Region) -> Iterable[str]:
    held = region.nodes.get("values", {}).get("decisions", ())
    return (*held, *(x for edge in region.edges.values() for x in edge.attributes.get("decisions", ())))


def _block(
    unit: _Unit,
    stage: Sequence[_Unit],
    decisions: Mapping[str, Decision],
    arch: Mapping[str, Any] | None,
    model: nn.Module | None,
    depths: Mapping[str, str],
) -> ChainBlock:
    lines: list[str] = []
    skips: list[int] = []
    for label in unit.labels:
        skip = _SKIP.match(label)
        if skip and list(decisions[label].candidates) == [0, 1] and int(skip[1]) < stage.index(unit):
            if arch is not None and arch[label]:
                skips.append(int(skip[1]))
            elif arch is None and _ANY not in lines:
                lines.append(_ANY)
            continue
        value = _candidates(decisions[label]) if arch is None else value_text(arch[label])
        short = _short(label, unit.path)
        lines.append(value if short == value else f"{short} {value}".strip())
    kernel, width = _sizes(model, unit.path, depths)
    return ChainBlock(tuple(lines), unit.path, kernel, width, tuple(skips))


def _short(label: str, path: str) -> str:
    """Return the words of a label that neither number nor name its block: "s2_i0_ks" is "ks".

    >>> _short("s2_i0_ks", "stages.2"), _short("kernel0", "blocks.0"), _short("layer_3", "layers.3")
    ('ks', 'kernel', '')
    """
    words = [re.sub(r"^.?\d+$|\d+$", "", word) for word in re.split(r"[/_]", label)]
    return " ".join(word for word in words if word and word not in (*_UNTOLD, path))


def _candidates(decision: Decision) -> str:
    texts = [str(candidate) for candidate in decision.candidates]
    return " | ".join(texts if len(texts) <= 8 else [*texts[:6], "...", texts[-1]])


def _collapsed(blocks: Sequence[ChainBlock], depth: Decision | None) -> list[ChainBlock]:
    """Return blocks of a space, alike ones once, with how many there are."""
    kinds: dict[tuple[str, ...], list[ChainBlock]] = {}
    for block in blocks:
        kinds.setdefault(block.lines, []).append(block)
    found = []
    for alike in kinds.values():
        times = f"x {len(alike)}" if len(alike) > 1 else ""
        if depth is not None and len(kinds) == 1:
            times = f"x {_candidates(depth)}"
        elif depth is not None and times:
            times = f"x up to {len(alike)}"
        found.append(ChainBlock(alike[0].lines, alike[0].path, times=times))
    return found


def _frozen(space: Space, arch: Mapping[str, Any]) -> nn.Module | None:
    """Return the network of an architecture without memory for weights; None where that does not work."""
    own = {label: value for label, value in arch.items() if label in space.decision_space.by_label}
    try:
        with global_generators_kept(), torch.device("meta"), model_context(own):
            return space.rebuild()
    except Exception:  # any user code runs here, and a picture can do without sizes
        return None


def _sizes(model: nn.Module | None, path: str, depths: Mapping[str, str]) -> tuple[int | None, int | None]:
    """Return the largest kernel and the last width of a block in a frozen network."""
    if model is None:
        return None, None
    for repeat in depths:  # a frozen Repeat is its blocks
        path = path.replace(f"{repeat}.blocks.", f"{repeat}.", 1)
    try:
        block = model.get_submodule(path)
    except AttributeError:
        return None, None
    convolutions = [m for m in block.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d)]
    widths = [
        m.out_features if isinstance(m, nn.Linear) else m.out_channels
        for m in block.modules()
        if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
    ]
    kernels = [max(m.kernel_size) for m in convolutions]
    return max(kernels, default=None), widths[-1] if widths else None
