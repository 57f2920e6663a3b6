"""The command line: quick help, one clear line for bad input, exit statuses."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from spacelang.cli import main
from spacelang.errors import SpaceError

Captured = pytest.CaptureFixture[str]


def refusal(capsys: Captured, *arguments: str) -> str:
    """Run a command that must be refused; return the one line it prints on stderr."""
    assert main(list(arguments)) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert line.startswith("spacelang: ")
    return line


def test_help_is_quick_and_loads_no_torch() -> None:
    code = (
        "import sys, json; from spacelang.cli import main; status = main(['--help']); "
        "print(json.dumps([status, sorted(sys.modules)]))"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - start
    *shown, last = done.stdout.splitlines()
    status, modules = json.loads(last)
    assert status == 0
    assert {"torch", "lightning", "numpy", "networkx", "rich"} & set(modules) == set()
    assert [word for word in ("demo", "draw", "info") if not any(word in line for line in shown)] == []
    assert seconds < 2.0, "0.07 s alone on the machine; the bound leaves room for busy ones"


def test_the_module_runs_as_a_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "spacelang", "nonsense"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "unknown command 'nonsense'" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_command_shows_the_help(capsys: Captured) -> None:
    assert main([]) == 0
    assert "Usage: spacelang" in capsys.readouterr().out


def test_version(capsys: Captured) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("spacelang 0.")


def test_info_lists_versions(capsys: Captured) -> None:
    assert main(["info"]) == 0
    shown = capsys.readouterr().out
    for name in ("spacelang", "python", "torch", "lightning", "cache"):
        assert any(line.startswith(name) for line in shown.splitlines()), name


def test_unknown_command_names_the_nearest(capsys: Captured) -> None:
    assert "Closest: 'demo'." in refusal(capsys, "dmeo")


def test_unknown_option_says_where_help_is(capsys: Captured) -> None:
    line = refusal(capsys, "demo", "--sed", "1")
    assert "--sed" in line
    assert "spacelang demo --help" in line


@pytest.mark.parametrize(
    ("option", "value"),
    [("--seed", "one"), ("--seed", "-1"), ("--epochs", "0"), ("--epochs", "many"), ("--directory", "")],
)
def test_bad_option_values_of_the_demo(capsys: Captured, option: str, value: str) -> None:
    assert option in refusal(capsys, "demo", option, value)


@pytest.mark.parametrize(
    ("raised", "status", "line"),
    [
        (SpaceError("first\n  second"), 2, "spacelang: first; second"),
        (FileNotFoundError(2, "No such file or directory", "a.yaml"), 2, "spacelang: [Errno 2]"),
        (KeyboardInterrupt(), 130, "spacelang: interrupted"),
    ],
)
def test_errors_become_one_line(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, raised: BaseException, status: int, line: str
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise raised

    monkeypatch.setattr("spacelang.cli.info._dependencies", fail)
    assert main(["info"]) == status
    (shown,) = (text for text in capsys.readouterr().err.splitlines() if text)
    assert shown.startswith(line)


def test_lightning_answering_ctrl_c_with_an_exit_is_an_interruption(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    monkeypatch.setattr("spacelang.cli.info._dependencies", interrupted)
    assert main(["info"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_defects_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("spacelang.cli.info._dependencies", fail)
    with pytest.raises(ZeroDivisionError):
        main(["info"])
