"""Try an installed wheel from outside the repository: every package imports, data files are there."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import files, version
from pathlib import Path

import spacelang
import spacelang.hub

REPOSITORY = Path(__file__).parent.parent


def main() -> None:
    """Print what was checked; a missing module or file ends in an error."""
    home = Path(spacelang.__file__).parent
    assert Path(sys.prefix) in home.parents, f"imported {home}, not the wheel in {sys.prefix}"
    for path in sorted(home.rglob("__init__.py")):
        import_module(".".join(("spacelang", *path.parent.relative_to(home).parts)))
    for name in spacelang.__all__:
        getattr(spacelang, name)
    shipped = {str(path).removeprefix("spacelang/") for path in files("spacelang-nas") or ()}
    assert "py.typed" in shipped, "py.typed is not in the wheel"
    data = {
        path.relative_to(REPOSITORY).as_posix()
        for pattern in ("architectures/*.yaml", "weights/*.safetensors", "tables/*.csv")
        for path in (REPOSITORY / "hub").glob(pattern)
    }
    assert data <= shipped, f"not in the wheel: {sorted(data - shipped)}"
    print(
        f"wheel: spacelang {version('spacelang-nas')} imports from {home.relative_to(sys.prefix)}; "
        f"{len(data)} files of data"
    )


if __name__ == "__main__":
    main()
