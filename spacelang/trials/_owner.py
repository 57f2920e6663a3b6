"""Names of worker processes, by which dead ones are told."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterable


def new_owner() -> str:
    """A name for this process that no other has or had."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


def dead_owners(owners: Iterable[str]) -> list[str]:
    """Those whose process ran on this machine and is gone."""
    return [owner for owner in owners if _is_dead(owner)]


def _is_dead(owner: str) -> bool:
    host, _, rest = owner.partition(":")
    pid = rest.partition(":")[0]
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
