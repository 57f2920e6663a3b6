"""Owners of claimed trials: names that are never used twice, and whether their process still lives.

A lease alone says who owns a trial. Where an owner ran in this process, or in one that this process can see,
its death is known before its lease ends, so that a killed search resumes at once.
"""

from __future__ import annotations

import os
import socket
import threading
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """One process among all that ever ran on any machine.

    Attributes:
        pid: Its number.
        boot: Identity of the machine's present start.
        namespace: PID namespace: a container sees only the processes of its own.
        started: Moment of its start in clock ticks; another process with the number has another.
    """

    pid: int
    boot: str
    namespace: str
    started: str


def new_owner() -> str:
    """Return a name for a search in this process that no other search has or had.

    It is a random identity, host and process for people to read, and, where the system tells, what identifies
    the process.
    """
    words = [uuid.uuid4().hex, socket.gethostname() or "unknown", str(os.getpid())]
    this = _this_process()
    return " ".join([*words, this.boot, this.namespace, this.started] if this else words)


def dead_owners(owners: Iterable[str]) -> list[str]:
    """Return the owners that are known to be gone; of others only the lease can tell."""
    return [owner for owner in owners if is_dead(owner)]


def is_dead(owner: str) -> bool:
    """Return whether an owner is known to be gone.

    An owner in this process lives as long as the thread of its name, which renews its leases.
    """
    process = _process_of(owner)
    if process is not None and process == _this_process():
        return owner not in {thread.name for thread in threading.enumerate()}
    return process_is_dead(owner)


def process_is_dead(owner: str) -> bool:
    """Return whether the process of an owner is known to be gone."""
    process, this = _process_of(owner), _this_process()
    if process is None or this is None or (process.boot, process.namespace) != (this.boot, this.namespace):
        return False
    return process != this and not _runs(process)


def described(owner: str) -> str:
    """Return an owner for people: its host and process."""
    words = owner.split()
    return f"process {words[2]} on {words[1]}" if len(words) >= 3 else repr(owner)


def _process_of(owner: str) -> Process | None:
    words = owner.split()
    if len(words) != 6 or not words[2].isdigit():
        return None
    return Process(int(words[2]), *words[3:])


def _this_process() -> Process | None:
    """Return the identity of this process; None where the system does not tell."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink(_PROC / "self/ns/pid")
        started, _ = _status(os.getpid())
    except (OSError, IndexError):
        return None
    return Process(os.getpid(), boot, namespace, started)


def _runs(process: Process) -> bool:
    """Return whether a process of this PID namespace runs; one that waits to be reaped has ended."""
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is another user's
    try:
        started, state = _status(process.pid)
    except (OSError, IndexError):
        return True  # hidden from this user
    return started == process.started and state not in "ZX"


def _status(pid: int) -> tuple[str, str]:
    """Return the start and the state of a process, from `/proc/PID/stat` (proc(5))."""
    text = (_PROC / str(pid) / "stat").read_text()
    words = text.rpartition(")")[2].split()  # the name of the program, in brackets, may hold anything
    return words[19], words[0]
