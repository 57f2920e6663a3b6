"""Owners of trials: which are known to be gone, and which only the lease can tell of."""

from __future__ import annotations

import multiprocessing
import os
import socket
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from spacelang.trials.ledger import dead_owners, new_owner, owner

pytestmark = pytest.mark.skipif(not Path("/proc/self/ns/pid").exists(), reason="needs Linux's /proc")

Other = tuple[BaseProcess, str]


@pytest.fixture
def other() -> Iterator[Other]:
    """Another process, and an owner in it."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_live, args=(theirs,))
    process.start()
    yield process, ours.recv()
    process.kill()
    process.join()


def _live(pipe: Connection) -> None:
    pipe.send(new_owner())
    pipe.recv()


def changed(name: str, **parts: str) -> str:
    """An owner with other parts of its identity."""
    words = dict(zip(("id", "host", "pid", "boot", "namespace", "started"), name.split(), strict=True))
    return " ".join((words | parts).values())


def test_an_owner_in_another_process_lives_as_long_as_the_process(
    other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, name = other
    assert dead_owners([name]) == []
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and its parent has not looked
    assert dead_owners([name]) == [name]
    process.join()
    assert dead_owners([name]) == [name]
    monkeypatch.setattr(socket, "gethostname", lambda: "renamed")
    assert dead_owners([name]) == [name]


def test_another_process_with_the_number_is_not_the_owner(other: Other) -> None:
    _, name = other
    assert dead_owners([name, changed(name, started="1")]) == [changed(name, started="1")]


@pytest.mark.parametrize("part", ["boot", "namespace"])
def test_of_another_machine_or_container_only_the_lease_tells(other: Other, part: str) -> None:
    """Two containers with one host name do not see each other's processes."""
    process, name = other
    process.kill()
    process.join()
    assert dead_owners([changed(name, **{part: "other"})]) == []


def test_a_process_that_is_hidden_from_this_user_lives(other: Other, monkeypatch: pytest.MonkeyPatch) -> None:
    _, name = other
    known = owner._status

    def hidden(pid: int) -> tuple[str, str]:
        if pid != os.getpid():
            raise FileNotFoundError
        return known(pid)

    monkeypatch.setattr(owner, "_status", hidden)
    assert dead_owners([name]) == []


def test_an_owner_in_this_process_lives_as_long_as_its_thread() -> None:
    mine, end = new_owner(), threading.Event()
    assert dead_owners([mine]) == [mine]
    thread = threading.Thread(target=end.wait, name=mine)
    thread.start()
    assert dead_owners([mine, "somebody"]) == []
    end.set()
    thread.join()
    assert dead_owners([mine]) == [mine]


def test_without_proc_only_the_lease_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = new_owner()
    monkeypatch.setattr(owner, "_PROC", tmp_path)
    without = new_owner()
    assert len(without.split()) == 3
    assert dead_owners([before, without]) == []


def test_names_are_new_and_say_where() -> None:
    assert len({new_owner() for _ in range(100)}) == 100
    assert owner.described(new_owner()) == f"process {os.getpid()} on {socket.gethostname()}"
    assert owner.described("me") == "'me'"
