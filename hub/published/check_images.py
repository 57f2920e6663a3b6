"""Images on which a converted network is checked: a folder of pictures, or a batch in a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from spacelang.errors import SpaceError

LEAST, MOST = 16, 256
"""Numbers of images: fewer tell too little of a distribution, more tell nothing new."""

_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


@dataclass(frozen=True)
class Preparation:
    """How a picture becomes a tensor.

    The shorter side becomes `resize` pixels, the centre of `size` x `size` is taken, and channels, 0 to 1,
    are normalised by `mean` and `std`, in the order blue, green, red if `bgr`.
    """

    size: int
    resize: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool = False

    def __str__(self) -> str:
        order = "BGR" if self.bgr else "RGB"
        mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        return f"{self.size}x{self.size} {order} images, 0 to 1, minus ({mean}), divided by ({std})"

    def read(self, path: Path) -> Tensor:
        """Return the picture in a file, (3, size, size)."""
        from PIL import Image, UnidentifiedImageError
        from torchvision.transforms import functional

        try:
            picture = Image.open(path).convert("RGB")
        except (UnidentifiedImageError, OSError, ValueError) as error:
            raise SpaceError(f"cannot read the picture '{path}': {error}") from error
        resized = functional.center_crop(functional.resize(picture, self.resize), [self.size, self.size])
        channels = functional.to_tensor(resized)
        ordered = channels.flip(0) if self.bgr else channels
        normalised: Tensor = functional.normalize(ordered, list(self.mean), list(self.std))
        return normalised


def read_images(path: Path, preparation: Preparation | None) -> Tensor:
    """Return at most `MOST` images, (N, C, H, W).

    Args:
        path: Folder of pictures, also in folders inside it; or a `.pt` or `.npy` file of one array, whose
            images are already prepared.
        preparation: How to prepare pictures; None if it is not known.

    Raises:
        SpaceError: the path holds no images, or fewer than `LEAST`.
    """
    images = _from_folder(path, preparation) if path.is_dir() else _from_file(path)
    if images.dim() != 4 or len(images) < LEAST or not images.isfinite().all():
        raise SpaceError(
            f"'{path}' must hold at least {LEAST} images of finite numbers, (N, channels, height, width); "
            f"got {tuple(images.shape)}."
        )
    return images[:MOST]


def _from_folder(folder: Path, preparation: Preparation | None) -> Tensor:
    if preparation is None:
        raise SpaceError(
            f"the checkpoint does not tell how the pictures in '{folder}' are to be prepared. Give a .pt or "
            ".npy file of prepared images."
        )
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _PICTURES)
    spread = paths[:: max(1, len(paths) // MOST)]  # of every class, where each has a folder
    return torch.stack([preparation.read(path) for path in spread[:MOST]]) if paths else torch.empty(0)


def _from_file(path: Path) -> Tensor:
    """Read an array; no file can run code: NumPy refuses pickles unless told otherwise."""
    import numpy as np

    try:
        if path.suffix == ".npy":
            loaded = torch.as_tensor(np.load(path))
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of numpy, pickle, or a damaged archive
        reason = str(error).strip().partition("\n")[0]
        raise SpaceError(f"cannot read images from '{path}': {reason}") from error
    if not isinstance(loaded, Tensor):
        raise SpaceError(f"'{path}' holds a {type(loaded).__name__}; expected one tensor of images.")
    return loaded.float()
