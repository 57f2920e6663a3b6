"""A clean stop on SIGTERM."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def clean_stop() -> Iterator[None]:
    """Turn SIGTERM into a KeyboardInterrupt, so that a search stops as on Ctrl-C; then end as SIGTERM does.

    Only the main thread may handle signals; in another one, and where SIGTERM is ignored, nothing changes.
    A handler of the caller's is called at the end.
    """
    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or before in (None, signal.SIG_IGN):
        yield
        return
    received = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        received.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if received.is_set():
            signal.raise_signal(signal.SIGTERM)
