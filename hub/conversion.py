"""Convert a checkpoint of another project to a bundle that `load` accepts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spacelang.errors import SpaceError, quoted
from spacelang.results import save_bundle

from .loading import SPACES
from .published import build, convert_weights, read_entry
from .published.check_images import Preparation, read_images
from .published.layouts import LAYOUTS, OWN, layout_of, preparation_of
from .published.norm_check import MOST_DIVERGENCE, NormCheck, check_norms
from .published.published_space import unwrapped
from .published.weights import fill, parse


@dataclass(frozen=True)
class Conversion:
    """Result of `convert_checkpoint`.

    Attributes:
        folder: The bundle.
        name: Name of the entry.
        layout: Project whose names the checkpoint had.
        space: Class of the network.
        architecture: Architecture that was assumed, because names and shapes of weights cannot tell the
            wiring; of a chain of blocks (once-for-all) the architecture that they tell.
        arguments: Constructor arguments read from the checkpoint that differ from the entry's.
        left_out: Names of the auxiliary head, which computes nothing after training.
        new_counters: Number of batch norms whose count of batches was not in the file and is set to 0.
        preparation: How images were prepared in training; None if the layout does not tell.
        check: Comparison on images, if there were any.
    """

    folder: Path
    name: str
    layout: str
    space: str
    architecture: Mapping[str, Any]
    arguments: Mapping[str, Any]
    left_out: tuple[str, ...]
    new_counters: int
    preparation: Preparation | None
    check: NormCheck | None


def convert_checkpoint(
    checkpoint: str | os.PathLike[str],
    name: str,
    directory: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
) -> Conversion:
    """Write the weights of a checkpoint as a bundle, for `load(name, pretrained=directory)`.

    Width, number of cells and number of classes are read from the file. An auxiliary head is left out.

    Args:
        checkpoint: State dict of a trained network, or a training script's file with one in it.
        name: Entry whose architecture was trained; see `list_models()`.
        directory: Folder of the bundle; its parent must exist.
        images: Folder of pictures, or a `.pt` or `.npy` file of prepared images. On them the wiring is
            compared with the statistics in the checkpoint.

    Raises:
        SpaceError: the file is damaged or unsafe, of a layout that cannot be converted, or of another
            architecture. Then nothing is written.
    """
    entry = read_entry(name)
    path = Path(checkpoint)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SpaceError(f"cannot read '{path}': {error.strerror or error}.") from error
    weights = unwrapped(parse(data, path.name))
    try:
        layout = layout_of(weights)
    except SpaceError as error:
        raise SpaceError(f"'{path}' cannot be converted: {error}") from error
    space = SPACES[entry.space]
    entry = replace(entry, architecture=space.architecture_of(weights) or entry.architecture)
    read = space.arguments_of(weights)
    with torch.device("meta"):  # names and shapes need no weights
        own = space.arguments_of(build(entry, space, pretrained=False, overrides={}).state_dict())
    arguments = {key: value for key, value in read.items() if value != own.get(key)}
    model = build(entry, space, pretrained=False, overrides=arguments)
    converted = convert_weights(weights, model)
    if layout.name == OWN:
        _check_known(converted, model.state_dict(), path)
    fill(model, converted, f"'{path}'")
    preparation = preparation_of(layout, name, {**entry.arguments, **read})
    check = None if images is None else _checked(model, name, Path(images), preparation)
    metadata = {
        "name": name,
        "layout": layout.name,
        "checkpoint": path.name,
        "checkpoint_sha256": hashlib.sha256(data).hexdigest(),
        "images": None if preparation is None else str(preparation),
    }
    return Conversion(
        folder=save_bundle(model, entry.architecture, directory, metadata=metadata),
        name=name,
        layout=layout.name,
        space=entry.space,
        architecture=entry.architecture,
        arguments=arguments,
        left_out=tuple(key for key in weights if key.startswith("auxiliary_head.")),
        new_counters=sum(key.endswith("num_batches_tracked") for key in converted)
        - sum(key.endswith("num_batches_tracked") for key in weights if "auxiliary_head" not in key),
        preparation=preparation,
        check=check,
    )


def _check_known(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], path: Path) -> None:
    """Raise a `SpaceError` if no name of a state dict is known."""
    if not weights.keys() & own.keys():
        known = [layout.name for layout in LAYOUTS if not layout.refusal]
        raise SpaceError(
            f"'{path}' has names of no known layout: {quoted(list(weights), 6)}. Known are {quoted(known)}."
        )


def _checked(model: Any, name: str, images: Path, preparation: Preparation | None) -> NormCheck:
    result = check_norms(model, read_images(images, preparation))
    if not result.passed:
        raise SpaceError(
            f"on the images in '{images}' the network does not compute what it did in training: the inputs "
            f"of {result.worst!r} diverge by {result.divergence:.2g} nats; {MOST_DIVERGENCE} is allowed. "
            f"Either the checkpoint is not of {name!r} (weights fit other wirings too), or the images are "
            f"not as in training{'' if preparation is None else f' ({preparation})'}."
        )
    return result
