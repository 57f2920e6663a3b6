"""Checksums of files that a user brings."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from ..errors import SpaceError, short
from .storage import file_errors

Checksums: TypeAlias = str | Mapping[str, str]
"""SHA-256 of a file, 64 hexadecimal digits, or those of files in a folder by their paths in it."""

_DIGITS = re.compile(r"[0-9a-fA-F]{64}")


def require_sha256(place: Path, sha256: Checksums | None) -> None:
    """Raise unless a file, or every named file of a folder, has the checksum that is expected of it.

    Args:
        place: File or folder.
        sha256: Checksum of the file, or checksums by path in the folder; None for no check. Files of the
            folder that it does not name are not compared.

    Raises:
        SpaceError: A checksum differs (says which was expected and found), is not a SHA-256, or its file
            cannot be read.
    """
    if sha256 is None:
        return
    if place.is_dir() and not isinstance(sha256, Mapping):
        raise _unfit(place, "folder", '{"name of a file in it": "64 digits"}', sha256)
    if place.is_file() and isinstance(sha256, Mapping):
        raise _unfit(place, "file", '"64 digits"', sha256)
    named = sha256.items() if isinstance(sha256, Mapping) else [("", sha256)]
    for name, digits in named:
        _require(place / name, digits)


def _unfit(place: Path, kind: str, form: str, given: object) -> SpaceError:
    return SpaceError(f"'{place}' is a {kind}, so pass sha256={form}; got sha256={short(given)}.")


def _require(file: Path, expected: object) -> None:
    if not isinstance(expected, str) or not _DIGITS.fullmatch(expected):
        raise SpaceError(f"sha256 of '{file}' must be 64 hexadecimal digits; got {short(expected)}.")
    with file_errors(f"cannot read '{file}'"), file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != expected.lower():
        raise SpaceError(
            f"'{file}' is damaged or another version: its SHA-256 is {found}, expected {expected.lower()}. "
            "Get the file again, or pass the checksum of the version that you trust."
        )
