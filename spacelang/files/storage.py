"""Files written so that a reader sees the old one or the whole new one, and the folders they go to."""

from __future__ import annotations

import glob
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import SpaceError

try:
    import fcntl
except ImportError:  # Windows, which does not delete a file that somebody has open
    fcntl = None  # type: ignore[assignment]

_TOKEN = 8  # random bytes in the name of a temporary file
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` under a temporary name beside `path`, fsync it, and rename it into place.

    The folder must exist. A process killed at any moment leaves the old file (or none) and at most a hidden
    temporary file, which the next write to `path` removes.

    Raises:
        SpaceError: The folder is missing or cannot be written.
    """
    with file_errors(f"cannot write '{path}'"), atomic_file(path) as file:
        file.write(data)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`; at the end fsync it and rename it to `path`, as `write_atomic`.

    Its name cannot be guessed and the file is always a new one, so no link that somebody planted is followed.
    """
    remove_leftovers(path.parent, glob.escape(path.name))
    temporary, file = _new_file(path)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if fcntl is None:
                file.close()  # Windows renames no open file
            os.replace(temporary, path)  # while it is locked
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _new_file(path: Path) -> tuple[Path, BinaryIO]:
    """Create a temporary file for `path`, locked for as long as it is open."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(_TOKEN)}.tmp")
        file = os.fdopen(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, 0o666), "wb")
        locked = _lock(file.fileno())
        if locked is not False and os.fstat(file.fileno()).st_nlink:
            return temporary, file
        file.close()  # another process took it for a leftover before it was locked


def remove_leftovers(folder: Path, of: str = "*") -> None:
    """Delete temporary files whose writers were killed: nobody holds their locks.

    Args:
        folder: Folder that holds them.
        of: Pattern of the names of the files that were to be written.
    """
    for name in glob.glob(f".{of}.{'?' * 2 * _TOKEN}.tmp", root_dir=folder):
        with suppress(OSError):
            descriptor = os.open(folder / name, os.O_RDWR | getattr(os, "O_NONBLOCK", 0) | _NO_FOLLOW)
            try:
                if stat.S_ISREG(os.fstat(descriptor).st_mode) and _lock(descriptor):
                    (folder / name).unlink()
            finally:
                os.close(descriptor)


def _lock(descriptor: int) -> bool | None:
    """Lock an open file; return False if another process has, and None where files have no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems
        return None
    return True


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable; a no-op where folders cannot be opened (Windows)."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems refuse; the file itself is already synced
    finally:
        os.close(descriptor)


@contextmanager
def file_errors(doing: str) -> Iterator[None]:
    """Raise the operating system's complaint as a SpaceError that starts with `doing`."""
    try:
        yield
    except FileNotFoundError as error:
        raise SpaceError(f"{doing}: no such file or folder '{error.filename}'.") from error
    except OSError as error:
        raise SpaceError(f"{doing}: {error.strerror or error}.") from error


def target_path(path: str | os.PathLike[str], suffixes: tuple[str, ...]) -> Path:
    """Return `path` as a Path whose ending is one of `suffixes` and whose folder exists.

    Raises:
        SpaceError: No path, another ending, a missing folder, or a folder of that name.
    """
    if not isinstance(path, str | os.PathLike):
        raise SpaceError(
            f"path is a {type(path).__name__}; expected the path of a file ending in {' or '.join(suffixes)}."
        )
    target = Path(path)
    if target.suffix.lower() not in suffixes:
        example = f"{target.stem or 'result'}{suffixes[0]}"
        raise SpaceError(f"'{target}' must end in {' or '.join(suffixes)}; for example '{example}'.")
    if not target.parent.is_dir():
        raise SpaceError(f"the folder '{target.parent}' does not exist; create it first.")
    if target.is_dir():
        raise SpaceError(f"'{target}' is a folder; pass the path of a file.")
    return target


def cache_folder() -> Path:
    """Return `$SPACELANG_CACHE`, or `~/.cache/spacelang`. Not created here."""
    return Path(os.environ.get("SPACELANG_CACHE") or "~/.cache/spacelang").expanduser()


def fresh_run_folder() -> Path:
    """Return a new name below `runs/` of the cache folder.

    The folder is made by whoever first writes into it, so that only the first process of a
    distributed run leaves one. The name does not draw from a seeded generator.
    """
    return cache_folder() / "runs" / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"
