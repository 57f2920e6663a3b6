"""Handwritten digits of scikit-learn: real data that needs no download."""

from __future__ import annotations

import torch
from torch.utils.data import TensorDataset

from spacelang.errors import SpaceError, require_integer

from .splits import DataSplits

_MEAN, _STD = 0.30526029, 0.37604922  # of all pixels of the 1,797 images, scaled to [0, 1]


def digits(test_fraction: float = 0.2, seed: int = 0) -> DataSplits:
    """Return the 1,797 images of handwritten digits, float32 (1, 8, 8), with int64 labels.

    Pixels 0..16 are scaled to [0, 1] and normalised by the mean and deviation of the whole data set.

    Args:
        test_fraction: Fraction held out for the test, in the same proportion from each class.
        seed: Seed of the split; the global generators are left as they are.

    Raises:
        SpaceError: A part would have fewer than one image of each class.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits (UCI), in scikit-learn.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    require_integer("seed", seed, least=0)
    source = load_digits()
    count, classes = len(source.target), len(source.target_names)
    held_out = round(count * test_fraction) if 0 < test_fraction < 1 else 0
    if not classes <= held_out <= count - classes:
        raise SpaceError(
            f"test_fraction={test_fraction!r} must be a number that leaves at least {classes} of the {count} "
            "images in each part, such as 0.2."
        )
    pixels = torch.from_numpy(source.images).float() / 16  # (N, 8, 8)
    images = ((pixels - _MEAN) / _STD).unsqueeze(1)  # (N, 1, 8, 8)
    labels = torch.from_numpy(source.target).long()  # (N,)
    train, test = train_test_split(
        range(count), test_size=held_out, random_state=seed, stratify=source.target
    )
    return DataSplits(
        train=TensorDataset(images[train], labels[train]),
        test=TensorDataset(images[test], labels[test]),
        image_shape=(1, 8, 8),
        num_classes=classes,
        mean=(_MEAN,),
        std=(_STD,),
    )
