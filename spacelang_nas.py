"""The `spacelang` command, outside the package: another program may have taken the package's place."""

from __future__ import annotations

import runpy
import sys
from importlib.util import find_spec
from pathlib import Path


def main() -> int:
    """Run the command line, unless the other program named `spacelang` is in the way; see `namesake.py`."""
    spec = find_spec("spacelang")  # finds, and imports nothing
    folder = Path(spec.origin).parent if spec and spec.origin else Path()
    told = runpy.run_path(str(folder / "namesake.py"))["told_of_namesake"](str(folder))
    if told:
        print(f"spacelang: {told}", file=sys.stderr)
        return 2
    from spacelang.cli import main as run

    return run()
