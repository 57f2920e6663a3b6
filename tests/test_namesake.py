"""The other program named spacelang is recognised, and told from ours."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import spacelang
from spacelang.namesake import told_of_namesake

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Return a folder like site-packages in which both programs were installed, ours last."""
    package = tmp_path / "spacelang"
    (package / "step").mkdir(parents=True)
    for name in ("__init__.py", "doors.py", "errors.py", "namesake.py", "plugins.py", "version.py"):
        shutil.copy(Path(spacelang.__path__[0]) / name, package)
    shutil.copy(REPOSITORY / "spacelang_nas.py", tmp_path)
    return tmp_path


def run(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code that sees a folder before everything that is installed."""
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); {code}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_our_own_files_are_not_taken_for_it() -> None:
    assert told_of_namesake(spacelang.__path__[0]) == ""


def test_the_import_tells_of_its_files(mixed: Path) -> None:
    done = run(mixed, "import spacelang; print(spacelang.__version__)")
    assert done.stdout.strip() == spacelang.__version__
    assert "pip uninstall spacelang; pip install --force-reinstall" in done.stderr


def test_the_command_tells_of_it_where_the_import_cannot(mixed: Path) -> None:
    (mixed / "spacelang" / "__init__.py").write_text("import autotraders")
    done = run(mixed, "import spacelang_nas; sys.exit(spacelang_nas.main())")
    (line,) = done.stderr.splitlines()
    assert (done.returncode, line[:11]) == (2, "spacelang: ")
    assert "package is 'spacelang-nas'" in line
