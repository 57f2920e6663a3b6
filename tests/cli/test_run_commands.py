"""Commands on run folders: show, top, compare, report, list; and one line for every wrong input."""

from __future__ import annotations

from pathlib import Path

import pytest

from spacelang import Experiment
from spacelang.cli import main
from spacelang.evaluators import Functional
from spacelang.files import load_yaml
from spacelang.strategies.multi_trial import Grid, Random

from ..toys import trials as toy

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, Path]:
    """Two searches of the same space."""
    folders = {name: tmp_path / "runs" / name for name in ("grid", "random")}
    for folder, strategy in zip(folders.values(), (Grid(), Random()), strict=True):
        run = Experiment(
            toy.Chain(), Functional(toy.raises_on_two), strategy, directory=folder, max_trials=20
        )
        run.run()
    return folders


def said(capsys: Captured, *arguments: str) -> str:
    """What a command that succeeds writes."""
    capsys.readouterr()
    assert main(list(arguments)) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    return shown.out


def refused(capsys: Captured, *arguments: str) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == 2
    shown = capsys.readouterr()
    (line,) = shown.err.splitlines()
    return line


def test_show(runs: dict[str, Path], capsys: Captured) -> None:
    text = said(capsys, "show", str(runs["grid"]))
    best = Experiment.load(runs["grid"]).history.best_trial
    assert best is not None
    for word in ("finished", "Chain", "Grid", "maximize default", f"default {best.metrics['default']:g}"):
        assert word in text
    assert "ValueError: two is not allowed" in text


def test_top(runs: dict[str, Path], capsys: Captured) -> None:
    lines = said(capsys, "top", str(runs["grid"]), "-k", "3").splitlines()
    assert len(lines) == 1 + 3
    ranked = Experiment.load(runs["grid"]).ranked(3)
    assert load_yaml(said(capsys, "top", str(runs["grid"]), "-k", "3", "--yaml")) == ranked
    assert load_yaml(said(capsys, "top", str(runs["grid"]), "-k", "1", "--yaml")) == ranked[0]


def test_compare(runs: dict[str, Path], tmp_path: Path, capsys: Captured) -> None:
    picture = tmp_path / "both.svg"
    text = said(capsys, "compare", *map(str, runs.values()), "--picture", str(picture))
    assert "Grid" in text
    assert "Random" in text
    names = [str(folder) for folder in runs.values()]
    drawn = picture.read_text()
    assert all(f">{name[-10:]}" in drawn or name[-10:] in drawn for name in names)
    assert "wrote" in text
    line = refused(capsys, "compare", *names, "--picture", str(picture), "--metric", "acc")
    assert "was not judged by 'acc', but by 'default'" in line


def test_report(runs: dict[str, Path], capsys: Captured) -> None:
    path = runs["grid"] / "report.html"
    path.unlink()
    said(capsys, "report", str(runs["grid"]), "--random", str(runs["random"]))
    assert "random search: median" in path.read_text()


def test_list(runs: dict[str, Path], tmp_path: Path, capsys: Captured) -> None:
    lines = said(capsys, "list", str(tmp_path)).splitlines()
    assert [line.split()[0] for line in lines[1:]] == [str(folder) for folder in runs.values()]
    (runs["grid"] / "experiment.yaml").write_text("a: [")
    assert "unreadable" in said(capsys, "list", str(tmp_path))
    (tmp_path / "empty").mkdir()
    assert said(capsys, "list", str(tmp_path / "empty")) == f"no runs in {str(tmp_path / 'empty')!r}.\n"


@pytest.mark.parametrize("command", ["show", "top", "compare", "report"])
def test_what_is_no_run_gets_one_line(tmp_path: Path, capsys: Captured, command: str) -> None:
    assert "holds no run" in refused(capsys, command, str(tmp_path))
    assert "does not exist" in refused(capsys, command, str(tmp_path / "none"))
    (tmp_path / "experiment.yaml").write_text("objectives: [maximize a]\nspace: 3\n")
    assert "does not describe a search" in refused(capsys, command, str(tmp_path))
    (tmp_path / "experiment.yaml").write_text("objectives: [maximize a]\nspace: {}\nstrategy: {}\n")
    assert "there is no ledger" in refused(capsys, command, str(tmp_path))
    assert not (tmp_path / "report.html").exists()


def test_control_characters_stay_off_the_terminal(runs: dict[str, Path], capsys: Captured) -> None:
    path = runs["grid"] / "experiment.yaml"
    path.write_text(path.read_text().replace("tests.toys.trials.Chain", '"x.[red]\\e[31mChain"'))
    text = said(capsys, "show", str(runs["grid"]))
    assert "\x1b" not in text
    assert "[red]" in text
