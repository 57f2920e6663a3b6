"""Where spacelang may write when the user names no folder."""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path


def cache_folder() -> Path:
    """Return `$SPACELANG_CACHE`, or `~/.cache/spacelang`. Not created here."""
    return Path(os.environ.get("SPACELANG_CACHE") or "~/.cache/spacelang").expanduser()


def fresh_run_folder() -> Path:
    """Return a new name below `runs/` of the cache folder.

    The folder is made by whoever first writes into it, so that only the first process of a
    distributed run leaves one. The name does not draw from a seeded generator.
    """
    return cache_folder() / "runs" / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"
