"""The images a space of the hub is for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from spacelang.errors import SpaceError, closest, quoted
from spacelang.language import Categorical

Dataset: TypeAlias = Literal["cifar", "imagenet"] | tuple[int, int, int]


@dataclass(frozen=True)
class Images:
    """Images (channels, size, size) and their classes; `imagenet` selects the stem that divides size by 8."""

    channels: int
    size: int
    num_classes: int
    imagenet: bool = False


_DATASETS = {"cifar": Images(3, 32, 10), "imagenet": Images(3, 224, 1000, imagenet=True)}


def resolve_images(dataset: object, num_classes: int | None) -> Images:
    """Translate the `dataset` and `num_classes` arguments."""
    if isinstance(dataset, (list, tuple)) and len(dataset) == 3:
        for name, value in zip(("channels", "size", "classes"), dataset, strict=True):
            check_positive(f"dataset's {name}", value)
        data = Images(*dataset)
    elif isinstance(dataset, str) and dataset in _DATASETS:
        data = _DATASETS[dataset]
    else:
        raise SpaceError(
            f"dataset must be {quoted(_DATASETS)} or (channels, size, classes), got {dataset!r}."
            f"{closest(dataset, _DATASETS)}"
        )
    if num_classes is None:
        return data
    check_positive("num_classes", num_classes)
    return replace(data, num_classes=num_classes)


def check_positive(name: str, value: object) -> None:
    """Raise a `SpaceError` unless `value` is an integer of at least 1."""
    if type(value) is not int or value < 1:
        raise SpaceError(f"{name} must be an integer of at least 1, got {value!r}.")


@dataclass(frozen=True)
class OneOf:
    """A decision takes one of the `accepted` values; false while it is not taken."""

    decision: Categorical
    accepted: tuple[Any, ...]

    @property
    def labels(self) -> frozenset[str]:
        """The label it depends on."""
        return frozenset([self.decision.label])

    def holds(self, arch: Mapping[str, Any]) -> bool:
        """Whether it is true of `arch`."""
        return self.decision.label in arch and self.decision.parse(arch[self.decision.label]) in self.accepted

    def __str__(self) -> str:
        return f"{self.decision.label} in {list(self.accepted)!r}"
