"""Checksums of files, and that every reader compares them before it reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spacelang import SpaceError
from spacelang.evaluators.data import modelnet, penn_treebank, ppi
from spacelang.files import require_sha256
from spacelang.hub import read_hw_nas_bench, read_nasbench101, read_nasbench201, read_nds

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "abc.pth"
    path.write_bytes(b"abc")
    return path


def test_the_right_checksum(file: Path) -> None:
    require_sha256(file, None)
    require_sha256(file, ABC)
    require_sha256(file, ABC.upper())
    require_sha256(file.parent, {"abc.pth": ABC})


@pytest.mark.parametrize(
    ("place", "sha256", "message"),
    [
        (
            "abc.pth",
            EMPTY,
            f"abc.pth' is damaged or another version: its SHA-256 is {ABC}, expected {EMPTY}",
        ),
        (".", {"abc.pth": EMPTY}, f"'.*abc.pth' is damaged .* {ABC}, expected {EMPTY}"),
        (
            ".",
            ABC,
            r"is a folder, so pass sha256=\{.name of a file in it.: .64 digits.\}; got sha256='ba78",
        ),
        ("abc.pth", {"abc.pth": ABC}, r"is a file, so pass sha256=\"64 digits\"; got sha256=\{'abc"),
        ("abc.pth", "ba7816bf", "sha256 of '.*abc.pth' must be 64 hexadecimal digits; got 'ba7816bf'"),
        (".", {"none": ABC}, "cannot read '.*none': no such file or folder"),
        ("none", ABC, "cannot read '.*none': no such file or folder"),
        ("none", {"abc.pth": ABC}, "cannot read '.*none/abc.pth': no such file or folder"),
    ],
)
def test_what_differs_is_refused(file: Path, place: str, sha256: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        require_sha256(file.parent / place, sha256)


@pytest.mark.parametrize("read", [read_nasbench101, read_nasbench201, read_nds, read_hw_nas_bench])
def test_readers_of_files_compare_first(file: Path, read: Callable[..., Any]) -> None:
    with pytest.raises(SpaceError, match=f"its SHA-256 is {ABC}, expected {EMPTY}"):
        read(file, sha256=EMPTY)
    with pytest.raises(SpaceError) as error:  # the file is right, and no table
        read(file, sha256=ABC)
    assert "SHA-256" not in str(error.value)


@pytest.mark.parametrize("read", [read_nasbench201, penn_treebank, ppi, modelnet])
def test_readers_of_folders_compare_first(file: Path, read: Callable[..., Any]) -> None:
    with pytest.raises(SpaceError, match=f"its SHA-256 is {ABC}, expected {EMPTY}"):
        read(file.parent, sha256={"abc.pth": EMPTY})
    with pytest.raises(SpaceError) as error:
        read(file.parent, sha256={"abc.pth": ABC})
    assert "SHA-256" not in str(error.value)
