"""Splits of a labelled image data set, and their loaders."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from spacelang.errors import SpaceError, require_integer

Sample: TypeAlias = tuple[Tensor, Any]  # an image (C, H, W) and its class number
Batch: TypeAlias = tuple[Tensor, Tensor]  # images (B, C, H, W) and class numbers (B,)


@dataclass(frozen=True)
class DataSplits:
    """One data set in two parts: `DataSplits(train, test)` of samples (input, target).

    Attributes:
        train: Samples for search and training; split it further for validation.
        test: Held-out samples, for the final number only.
        image_shape: Shape of an input, such as (C, H, W); by default that of the first test sample.
        num_classes: Number of classes, labels 0, ..., num_classes - 1; 0 where it is not told.
        mean: Mean of each channel, subtracted from pixels in [0, 1]; empty where it is not told.
        std: Deviation of each channel, by which the difference is divided, likewise.
    """

    train: Dataset[Any]
    test: Dataset[Any]
    image_shape: tuple[int, ...] = ()
    num_classes: int = 0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.image_shape and isinstance(self.test, Sized) and len(self.test):
            sample = self.test[0]  # a training sample may be augmented, which draws random numbers
            first = sample[0] if isinstance(sample, tuple | list) else sample
            object.__setattr__(self, "image_shape", tuple(getattr(first, "shape", ())))


def split_half(dataset: Dataset[Sample], seed: int = 0) -> tuple[Subset[Sample], Subset[Sample]]:
    """Split at random into two halves; with an odd number the second half has one more.

    The split depends on `seed` and the length alone, and leaves the global generators as they are.

    Raises:
        SpaceError: The data set has fewer than two samples, or the seed is not an integer of at least 0.
    """
    require_integer("seed", seed, least=0)
    count = _length(dataset)
    if count < 2:
        raise SpaceError(f"the data set has {count} samples; expected at least 2 to split it into halves.")
    generator = torch.Generator().manual_seed(seed)  # as ever: published tables are about these halves
    order = torch.randperm(count, generator=generator).tolist()
    return Subset(dataset, order[: count // 2]), Subset(dataset, order[count // 2 :])


def search_loaders(
    dataset: Dataset[Sample], batch_size: int = 64, seed: int = 0, num_workers: int = 0
) -> tuple[DataLoader[Batch], DataLoader[Batch]]:
    """Return a loader of weight batches and one of architecture batches, on the two halves of `dataset`.

    Both shuffle, drawing the order of each epoch from torch's global generator; `seed` fixes the split.

    Raises:
        SpaceError: A batch is larger than a half, or a number is out of range.
    """
    first, second = split_half(dataset, seed)
    return (
        _loader(first, batch_size, num_workers, shuffle=True),
        _loader(second, batch_size, num_workers, shuffle=True),
    )


def retrain_loaders(
    splits: DataSplits, batch_size: int = 96, num_workers: int = 0
) -> tuple[DataLoader[Batch], DataLoader[Batch]]:
    """Return a shuffled loader of all training samples and an ordered one of the test samples.

    Raises:
        SpaceError: A batch is larger than the training set, or a number is out of range.
    """
    return (
        _loader(splits.train, batch_size, num_workers, shuffle=True),
        _loader(splits.test, batch_size, num_workers, shuffle=False),
    )


def _loader(
    dataset: Dataset[Sample], batch_size: int, num_workers: int, *, shuffle: bool
) -> DataLoader[Batch]:
    count = _length(dataset)
    require_integer("batch_size", batch_size, least=1, most=count if shuffle else None)
    require_integer("num_workers", num_workers, least=0)
    return DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=shuffle,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )


def _length(dataset: object) -> int:
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise SpaceError(
            f"the data set is a {type(dataset).__name__}; expected a torch Dataset with a length. "
            "Pass DataSplits.train, not the DataSplits."
        )
    return len(dataset)
