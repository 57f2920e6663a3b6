"""Room on Python's stack for choices nested deeply."""

from __future__ import annotations

import sys

from torch import nn

_USUAL = 1000  # Python's own limit, enough for spaces of some twenty levels
_FRAMES = 20  # calls that copying or running one level of modules may take
_MOST = 20_000


def make_room(levels: int) -> None:
    """Let calls nest as deeply as modules of so many levels need.

    Modules compute, are copied and moved by functions that call themselves for every level, torch's own too.
    The limit is never lowered, since models outlive this call, and has an end, since an endless recursion
    should still be an error.
    """
    needed = min(_USUAL + _FRAMES * levels, _MOST)
    if levels > 20 and sys.getrecursionlimit() < needed:
        sys.setrecursionlimit(needed)


def levels_of(module: nn.Module) -> int:
    """Return the number of levels of a module tree."""
    levels, level = 0, [module]
    seen = {id(module)}
    while level:
        levels += 1
        below = [child for parent in level for child in parent.children() if id(child) not in seen]
        seen.update(map(id, below))
        level = below
    return levels
