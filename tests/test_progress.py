"""A bar for slow work, on terminals alone."""

from __future__ import annotations

import pytest

from spacelang import progress
from spacelang.progress import with_bar


@pytest.mark.parametrize(
    ("terminal", "quiet", "shown"), [("1", 0.0, True), ("0", 0.0, False), ("1", 60.0, False)]
)
def test_a_bar_for_slow_work(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    terminal: str,
    quiet: float,
    shown: bool,
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "_QUIET", quiet)
    assert list(with_bar([1, 2, 3], "measuring")) == [1, 2, 3]
    assert ("measuring" in capsys.readouterr().err) == shown
