"""CIFAR-10 through torchvision, with the augmentation that architecture search uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from spacelang.errors import SpaceError, require_integer
from spacelang.files import cache_folder

from .splits import DataSplits, Sample

_MEAN = (0.49139968, 0.48215827, 0.44653124)  # of the 50,000 training images, per channel
_STD = (0.24703233, 0.24348505, 0.26158768)


def cifar10(
    root: str | Path | None = None,
    download: bool = True,
    *,
    cutout: int | None = None,
    augment: bool = True,
) -> DataSplits:
    """Return CIFAR-10: 50,000 training and 10,000 test images, float32 (3, 32, 32), with int labels.

    Training images are cropped at random from 4 pixels of padding, flipped at random, normalised, and
    optionally cut out; test images are normalised only.

    Args:
        root: Folder with, or for, `cifar-10-batches-py/`; default: `data/` of the cache folder.
        download: Whether to fetch the archive (163 MB) if the files are not there.
        cutout: Side of the square of `Cutout`, 16 in DARTS retraining; None for none, as in its search.
        augment: Whether to crop and flip training images; if not, they are treated like test images.

    Raises:
        SpaceError: The files are missing or damaged, and could not be fetched.

    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """
    folder = Path(root).expanduser() if root is not None else cache_folder() / "data"
    train = _read(folder, download, train=True, transform=_training_transform(augment, cutout))
    test = _read(folder, download, train=False, transform=_training_transform(augment=False, cutout=None))
    return DataSplits(train=train, test=test, image_shape=(3, 32, 32), num_classes=10, mean=_MEAN, std=_STD)


def _training_transform(augment: bool, cutout: int | None) -> Callable[[Any], Tensor]:
    """Return a function from a PIL image to a normalised tensor (3, 32, 32)."""
    from torchvision import transforms

    steps: list[Callable[[Any], Any]] = []
    if augment:
        steps += [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    steps += [transforms.ToTensor(), transforms.Normalize(_MEAN, _STD)]
    if cutout is not None:
        steps.append(Cutout(cutout))
    composed: Callable[[Any], Tensor] = transforms.Compose(steps)
    return composed


def _read(
    folder: Path, download: bool, *, train: bool, transform: Callable[[Any], Tensor]
) -> Dataset[Sample]:
    """Open one part with torchvision.

    torchvision unpickles the batch files, the only format they are published in, and unpickling can run
    code. It does so only once the MD5 of every file equals the one torchvision lists for it; a file that
    differs in one bit is refused. Nothing here relaxes that check, and no other file is unpickled.
    """
    from torchvision import datasets

    try:
        dataset: Dataset[Sample] = datasets.CIFAR10(
            str(folder), train=train, transform=transform, download=download
        )
    except (OSError, RuntimeError) as error:  # urllib's errors are OSErrors; a failed check is a RuntimeError
        advice = (
            "check the connection, or copy an unpacked cifar-10-python.tar.gz there and pass download=False"
            if download
            else "pass download=True to fetch it, or root= with the folder that holds it"
        )
        raise SpaceError(
            f"CIFAR-10 is not available in {folder / datasets.CIFAR10.base_folder} ({error}); {advice}"
        ) from error
    return dataset


@dataclass(frozen=True)
class Cutout:
    """A transform that sets one square of an image to zero; after the normalisation zero is the mean.

    The centre is uniform over all pixels and the square is clipped at the border. Draws two numbers
    from torch's global generator.

    Args:
        length: Side of the square in pixels.

    Source: DeVries and Taylor, arXiv:1708.04552.
    """

    length: int = 16

    def __post_init__(self) -> None:
        require_integer("length", self.length, least=1)

    def __call__(self, image: Tensor) -> Tensor:
        """Return a copy of `image` (C, H, W) with the square at zero."""
        height, width = image.shape[-2:]
        top, bottom = self._range(height)
        left, right = self._range(width)
        cut = image.clone()
        cut[..., top:bottom, left:right] = 0.0
        return cut

    def _range(self, size: int) -> tuple[int, int]:
        start = int(torch.randint(size, ())) - self.length // 2
        return max(start, 0), min(start + self.length, size)
