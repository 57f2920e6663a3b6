"""What every test gets: an empty working folder, a cache of its own, deterministic hypothesis."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("MPLBACKEND", "Agg")

# A shell ignores Ctrl-C for what it runs in the background, and children inherit that; tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Examples are derived from the test itself, not from a random seed or a database on disk.
settings.register_profile("spacelang", derandomize=True, database=None, deadline=None, print_blob=True)
settings.load_profile("spacelang")


@pytest.fixture(autouse=True)
def empty_working_folder(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Run each test in an empty folder and fail it when it leaves something there.

    Nothing may be written outside the folder the user named, or the cache.
    """
    folder = tmp_path_factory.mktemp("working")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SPACELANG_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    yield
    left = sorted(path.name for path in folder.iterdir())
    assert not left, f"written to the working folder: {left}"


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the repository the tests belong to."""
    return Path(__file__).parent.parent
