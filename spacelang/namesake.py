"""The other program named `spacelang` on the package index (it trades in space); ours is `spacelang-nas`."""

from __future__ import annotations

import os

DISTRIBUTION = "spacelang-nas"

_ITS_FOLDER = "step"  # it has __init__.py and this folder, and no others


def told_of_namesake(folder: str) -> str:
    """Return what to do if files of the other program lie among ours, or an empty text if none do.

    Whichever was installed last has written `__init__.py`. Removing the other program removes that file, so
    ours is then installed again.

    Args:
        folder: The folder `spacelang` in site-packages.
    """
    if not os.path.isdir(os.path.join(folder, _ITS_FOLDER)):
        return ""
    return (
        f"two programs are installed in {folder!r}: a library that searches neural networks, whose "
        f"package is {DISTRIBUTION!r}, and a space-trading program, whose package is 'spacelang'. "
        f"Type: pip uninstall spacelang; pip install --force-reinstall --no-deps {DISTRIBUTION}"
    )
