"""A bar on the terminal for work that takes longer than two seconds."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from typing import TypeVar

_QUIET = 2.0  # seconds

T = TypeVar("T")


def with_bar(items: Collection[T], title: str) -> Iterator[T]:
    """Yield items; on a terminal a bar with the time left appears after two seconds, and goes at the end."""
    from rich.console import Console  # late: `import spacelang` stays quick
    from rich.progress import Progress

    console = Console(stderr=True)
    bar = Progress(console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task(title, total=len(items))
    start = time.monotonic()
    try:
        for item in items:
            yield item
            bar.advance(task)
            if time.monotonic() - start >= _QUIET:
                bar.start()
    finally:
        bar.stop()
