"""Download a file once: an interrupted download is resumed, checked, and renamed into the cache."""

from __future__ import annotations

import hashlib
import http.client
import os
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from spacelang.errors import SpaceError
from spacelang.files import cache_folder

TIMEOUT = 30  # seconds without a byte
ATTEMPTS = 3  # connections that may break before the caller hears of it
_CHUNK = 1 << 16


def download(url: str, sha256: str) -> bytes:
    """Return the file behind `url`, from `weights/` of the cache folder if it is there.

    Bytes that arrive are appended to a `.part` file; a later call asks the server for the rest only. The
    checksum is compared before the file gets its name, and again whenever it is read from the cache.

    Args:
        url: An http or https address.
        sha256: Checksum of the whole file, 64 hexadecimal digits.

    Raises:
        SpaceError: there is no connection (names the place for a file copied by hand), or the checksum
            differs.
    """
    target = cached_path(url, sha256)
    if not target.is_file():
        _fetch(url, sha256, target)
    return checked(_read(target), sha256, f"'{target}'", "Delete it, and it is downloaded again")


def cached_path(url: str, sha256: str) -> Path:
    """Return where `download` keeps a file; its name begins with the checksum, one for each version."""
    parts = urlsplit(url)
    name = Path(parts.path).name
    if parts.scheme not in ("http", "https") or not name:
        raise SpaceError(f"weights are downloaded from http(s) addresses of a file, got {url!r}.")
    return cache_folder() / "weights" / f"{sha256[:16]}-{name}"


def checked(data: bytes, sha256: str, what: str, remedy: str) -> bytes:
    """Return the data; raise a `SpaceError` that ends in `remedy` if the checksum is wrong."""
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise SpaceError(f"{what} is damaged: its SHA-256 is {found}, expected {sha256}. {remedy}.")
    return data


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SpaceError(f"cannot read '{path}': {error.strerror or error}.") from error


def _fetch(url: str, sha256: str, target: Path) -> None:
    """Complete the `.part` file and rename it; other processes that want the same file wait."""
    part = target.with_name(f"{target.name}.part")
    by_hand = (
        f"Without a connection, get that file elsewhere and save it as '{target}' (SHA-256 {sha256}), "
        "or pass its place: pretrained='path/to/file'"
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("a+b") as file:
            _lock(file)
            if target.is_file():  # another process was faster, and `file` is its file or a new, empty one
                part.unlink(missing_ok=True)
                return
            _complete(url, sha256, file)
            os.fsync(file.fileno())
            os.replace(part, target)
    except HTTPError as error:
        raise SpaceError(f"cannot download {url}: {error.code} {error.reason}. {by_hand}.") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise SpaceError(f"cannot download {url}: {reason}. {by_hand}.") from error


def _lock(file: BinaryIO) -> None:
    """Wait until no other process writes `file`; a no-op where the system has no such lock (Windows)."""
    try:
        import fcntl
    except ImportError:
        return
    fcntl.flock(file, fcntl.LOCK_EX)


def _complete(url: str, sha256: str, file: BinaryIO) -> None:
    """Append to `file` until its checksum is right; fetch a wrong part again, and refuse a wrong whole."""
    for attempt in range(1, ATTEMPTS + 1):
        begun = file.seek(0, os.SEEK_END)
        try:
            expected = _append(url, file, begun)
        except HTTPError:
            raise
        except (OSError, http.client.HTTPException):
            if attempt == ATTEMPTS:
                raise
            continue
        size = file.seek(0, os.SEEK_END)
        if size < expected:
            if attempt == ATTEMPTS:
                raise ConnectionError(
                    f"the connection broke after {size:,} of {expected:,} bytes; "
                    "the same call continues from there"
                )
            continue
        file.seek(0)
        found = hashlib.sha256(file.read()).hexdigest()
        if found == sha256:
            return
        file.truncate(0)
        if begun == 0 or attempt == ATTEMPTS:
            raise SpaceError(
                f"{url} is not the published file: its SHA-256 is {found}, expected {sha256}. "
                "Nothing was kept. Try again; if the error stays, report it."
            )


def _append(url: str, file: BinaryIO, begun: int) -> int:
    """Ask for the bytes after the first `begun`, append the answer, and return the size of the whole file."""
    headers = {"User-Agent": "spacelang", "Accept-Encoding": "identity"}
    if begun:
        headers["Range"] = f"bytes={begun}-"
    try:
        response = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == 416:  # nothing after `begun`: the part is whole, or longer than the file
            error.close()
            return begun
        raise
    with response:
        if response.status != 206 or not _continues(response, begun):
            file.truncate(0)  # the server sends all of it
            begun = 0
        length = response.headers.get("Content-Length")
        expected = begun + int(length) if length else 0
        with _Progress(url, begun, expected) as progress:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                progress.advance(len(chunk))
        file.flush()
    return expected


def _continues(response: http.client.HTTPResponse, begun: int) -> bool:
    """Return whether a partial answer starts at the byte that was asked for."""
    return str(response.headers.get("Content-Range", "")).startswith(f"bytes {begun}-")


class _Progress:
    """A progress bar on standard error, if that is a terminal."""

    def __init__(self, url: str, begun: int, expected: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task(
            Path(urlsplit(url).path).name, total=expected or None, completed=begun
        )

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def advance(self, count: int) -> None:
        """Count bytes that arrived."""
        self._bar.advance(self._task, count)

    def __exit__(self, *error: object) -> None:
        self._bar.stop()
