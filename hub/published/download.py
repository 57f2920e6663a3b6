"""Download a file once, through pooch: it gets its name in the cache when its checksum is right."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from urllib.parse import urlsplit

from spacelang.errors import SpaceError
from spacelang.files import cache_folder

TIMEOUT = 30  # seconds without a byte


def download(url: str, sha256: str) -> bytes:
    """Return the file behind `url`, from `weights/` of the cache folder if it is there and whole.

    The bytes that are returned are those whose checksum was compared.

    Args:
        url: An http or https address.
        sha256: Checksum of the whole file, 64 hexadecimal digits.

    Raises:
        SpaceError: there is no connection (names the place for a file copied by hand), or the checksum
            differs.
    """
    target = cached_path(url, sha256)
    _fetch(url, sha256, target)
    return checked(target.read_bytes(), sha256, f"'{target}'", "Delete it, and it is downloaded again")


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


def _fetch(url: str, sha256: str, target: Path) -> None:
    """Have pooch download the file unless it is there and whole."""
    import pooch  # late: few calls download something

    pooch.get_logger().setLevel("WARNING")
    downloader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=TIMEOUT)
    try:
        pooch.retrieve(url, f"sha256:{sha256}", target.name, target.parent, downloader=downloader)
    except OSError as error:  # those of requests, too
        raise SpaceError(
            f"cannot download {url}: {error}. Without a connection, get that file elsewhere and save it as "
            f"'{target}' (SHA-256 {sha256}), or pass its place: pretrained='path/to/file'."
        ) from error
    except ValueError as error:
        raise SpaceError(
            f"{url} is not the published file, and nothing was kept: {error}. Try again; if the error stays, "
            "report it."
        ) from error
