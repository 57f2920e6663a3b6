"""Files written atomically: temporary names, planted links, leftovers of killed writers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from spacelang.files import atomic_file, write_atomic


def test_temporary_names_cannot_be_guessed(tmp_path: Path) -> None:
    seen = set()
    for _ in range(3):
        with atomic_file(tmp_path / "a.yaml") as file:
            (name,) = (entry.name for entry in tmp_path.iterdir() if entry.name != "a.yaml")
            seen.add(name)
            file.write(b"data")
    assert len(seen) == 3
    assert all(str(os.getpid()) not in name.split(".") for name in seen)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.yaml"]


def test_a_planted_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    tokens = iter(["00" * 8, "11" * 8])
    monkeypatch.setattr("secrets.token_hex", lambda count: next(tokens))
    (tmp_path / f".a.yaml.{'00' * 8}.tmp").symlink_to(victim)  # even if the name were guessed
    with pytest.raises(Exception, match="exists"):
        write_atomic(tmp_path / "a.yaml", b"data")
    write_atomic(tmp_path / "a.yaml", b"data")
    assert victim.read_bytes() == b"mine"
    assert (tmp_path / "a.yaml").read_bytes() == b"data"


WRITER = """
import sys
from pathlib import Path
from spacelang.files import atomic_file
with atomic_file(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    sys.stdin.read()
"""


def test_a_killed_writer_leaves_nothing_after_the_next_write(tmp_path: Path) -> None:
    path = tmp_path / "a[1].yaml"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.readline()
    killed, living = writers
    killed.kill()
    killed.communicate()
    assert _temporary(tmp_path) == 2
    write_atomic(path, b"whole")
    assert _temporary(tmp_path) == 1  # that of the living writer
    living.communicate(b"")
    assert living.returncode == 0
    assert path.read_bytes() == b"half"
    assert _temporary(tmp_path) == 0


def _temporary(folder: Path) -> int:
    return sum(entry.name.endswith(".tmp") for entry in folder.iterdir())


def test_a_leftover_locked_too_late_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that somebody removes between its creation and its lock."""
    import fcntl

    flock = fcntl.flock
    removed: list[str] = []

    def late(descriptor: int, operation: int) -> Any:
        if not removed:
            (name,) = (entry.name for entry in tmp_path.iterdir())
            removed.append(name)
            (tmp_path / name).unlink()
        return flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    write_atomic(tmp_path / "a.yaml", b"data")
    assert removed
    assert (tmp_path / "a.yaml").read_bytes() == b"data"
