"""The images that a space classifies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from spacelang.errors import SpaceError, closest, quoted, require_integer

Dataset: TypeAlias = Literal["cifar", "imagenet"] | tuple[int, int, int]


@dataclass(frozen=True)
class Images:
    """Square images and their classes; `imagenet` selects the stem that divides the size by 8."""

    channels: int
    size: int
    num_classes: int
    imagenet: bool = False


_DATASETS = {"cifar": Images(3, 32, 10), "imagenet": Images(3, 224, 1000, imagenet=True)}


def resolve_images(dataset: object, num_classes: int | None) -> Images:
    """Translate the arguments `dataset` and `num_classes` of a space."""
    if isinstance(dataset, (list, tuple)) and len(dataset) == 3:
        for name, value in zip(("channels", "size", "classes"), dataset, strict=True):
            require_integer(f"dataset: {name}", value, least=1)
        data = Images(*dataset)
    elif isinstance(dataset, str) and dataset in _DATASETS:
        data = _DATASETS[dataset]
    else:
        raise SpaceError(
            f"dataset={dataset!r} must be {quoted(_DATASETS)} or (channels, size, classes)."
            f"{closest(dataset, _DATASETS)}"
        )
    require_integer("num_classes", num_classes, least=1, optional=True)
    return data if num_classes is None else replace(data, num_classes=num_classes)
