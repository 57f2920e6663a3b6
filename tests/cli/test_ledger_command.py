"""`spacelang ledger`: a ledger is looked over, and failed trials run again."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spacelang import Experiment
from spacelang.cli import main
from spacelang.evaluators import Functional
from spacelang.strategies.multi_trial import Random
from spacelang.trials import Ledger, Proposal
from spacelang.trials.ledger import new_owner

from ..toys import trials as toy

Captured = pytest.CaptureFixture[str]


def search(directory: Path, function: Callable[..., Any] = toy.raises_on_two, **settings: Any) -> Experiment:
    """A search of all 27 architectures, of which three fail."""
    run = Experiment(toy.Chain(), Functional(function), Random(), directory=directory, **settings)
    run.run(resume=True)
    return run


def checked(capsys: Captured, directory: Path, *options: str, status: int = 0) -> dict[str, list[str]]:
    """The lines that `ledger check` prints, by name."""
    capsys.readouterr()
    assert main(["ledger", "check", str(directory), *options]) == status
    shown = capsys.readouterr()
    assert shown.err == ""
    lines: dict[str, list[str]] = {}
    for line in shown.out.splitlines():
        name, _, text = line.partition(" ")
        lines.setdefault(name, []).append(text.strip())
    return lines


def execute(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(statement)
    connection.close()


def test_a_finished_search_is_sound(tmp_path: Path, capsys: Captured) -> None:
    run = search(tmp_path)
    lines = checked(capsys, tmp_path)
    failed = [trial.number for trial in run.history if trial.state == "failed"]
    assert lines == {
        "ledger": [str(tmp_path / "trials.db")],
        "integrity": ["ok"],
        "version": ["4"],
        "studies": ["search (27)"],
        "study": ["search"],
        "trials": ["24 done, 3 failed"],
        "gaps": ["none"],
        "failed": [f"{number}: ValueError: two is not allowed" for number in failed],
    }


def test_who_runs_what_is_said(tmp_path: Path, capsys: Captured) -> None:
    search(tmp_path, toy.product, max_trials=1)
    ledger = Ledger(tmp_path / "trials.db")
    arch = ledger.trials()[0].arch
    for number, (owner, lease) in enumerate(
        [("0 there 7", 600.0), ("0 there 8", -1.0), (new_owner(), 600.0)], 1
    ):
        ledger.add(number, Proposal(arch), seed=1, owner=owner, lease=lease)
    alive, late, gone = checked(capsys, tmp_path)["claimed"]
    assert alive.startswith("1 (process 7 on there, claimed until 20")
    assert alive.endswith(": alive")
    assert "2 (process 8 on there" in late
    assert "its lease ran out" in late
    assert "its process has ended" in gone


def test_damage_is_said_and_has_a_status(tmp_path: Path, capsys: Captured) -> None:
    search(tmp_path, toy.product)
    path = tmp_path / "trials.db"
    execute(path, "DELETE FROM trials WHERE number IN (3, 5)")
    execute(path, "UPDATE trials SET note = '{broken' WHERE number = 7")
    lines = checked(capsys, tmp_path, status=1)
    assert lines["gaps"] == ["3, 5"]
    assert lines["unreadable"][0].startswith("7: ")
    execute(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    assert "ok" not in checked(capsys, tmp_path, status=1)["integrity"]
    path.write_bytes(b"no database " * 1000)
    assert "restore it from a backup" in checked(capsys, tmp_path, status=1)["integrity"][0]


def test_failed_trials_run_again(tmp_path: Path, capsys: Captured) -> None:
    before = search(tmp_path).history
    failed = [trial.number for trial in before if trial.state == "failed"]
    assert main(["ledger", "retry", str(tmp_path), str(failed[1])]) == 0
    assert f"waiting to run again: {failed[1]}." in capsys.readouterr().out
    once = search(tmp_path, toy.product).history
    states = {trial.number: trial.state for trial in once}
    assert [states[number] for number in failed] == ["failed", "done", "failed"]
    assert once[failed[1]].metrics == {"default": 2.0}
    assert (once[failed[1]].seed, once[failed[1]].arch) == (before[failed[1]].seed, before[failed[1]].arch)
    assert main(["ledger", "retry", str(tmp_path)]) == 0
    capsys.readouterr()
    assert search(tmp_path, toy.product).history.count("done") == 27
    assert main(["ledger", "retry", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "no trial has failed.\n"


def test_only_failed_trials_run_again(tmp_path: Path, capsys: Captured) -> None:
    run = search(tmp_path)
    failed = next(trial.number for trial in run.history if trial.state == "failed")
    done = next(trial.number for trial in run.history if trial.state == "done")
    capsys.readouterr()
    assert main(["ledger", "retry", str(tmp_path), str(failed), str(done), "99"]) == 2
    assert f"these have not failed: {done} (done), 99 (no such trial)" in capsys.readouterr().err
    states = [trial.state for trial in Ledger(tmp_path / "trials.db").trials()]
    assert states == [trial.state for trial in run.history]


def test_studies_of_a_shared_database_are_listed(tmp_path: Path, capsys: Captured) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    for seed, name in enumerate(("small", "large")):
        search(tmp_path / name, ledger=url, study=name, seed=seed, max_trials=seed + 1)
    lines = checked(capsys, tmp_path / "large")
    assert lines["studies"] == ["small (1), large (2)"]
    assert lines["study"] == ["large"]
    assert main(["ledger", "retry", str(tmp_path), "--ledger", url]) == 2
    assert "holds 2 studies, 'small', 'large'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["check", "retry"])
def test_a_folder_without_trials_is_refused(tmp_path: Path, capsys: Captured, command: str) -> None:
    assert main(["ledger", command, str(tmp_path)]) == 2
    assert "holds no multi-trial search" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert main(["ledger", command, str(tmp_path / "missing")]) == 2
    assert "missing" in capsys.readouterr().err


def test_a_password_must_be_given_and_is_not_shown(tmp_path: Path, capsys: Captured) -> None:
    search(tmp_path, toy.product, max_trials=1)
    description = tmp_path / "experiment.yaml"
    text = description.read_text().replace(
        "ledger: ''", "ledger: postgresql+psycopg://me:***@nowhere.invalid/x"
    )
    description.write_text(text)
    assert main(["ledger", "check", str(tmp_path)]) == 2
    assert "the password is not kept; pass the whole URL: --ledger URL" in capsys.readouterr().err
    path = str(tmp_path / "trials.db")
    assert checked(capsys, tmp_path, "--ledger", path)["integrity"] == ["ok"]


def test_the_group_shows_its_commands(capsys: Captured) -> None:
    assert main(["ledger"]) == 0
    shown = capsys.readouterr().out
    assert "check" in shown
    assert "retry" in shown
    assert main(["ledger", "chek"]) == 2


def test_retry_leaves_claims_alone(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "trials.db", identity={})
    for number in range(2):
        trial = ledger.add(number, Proposal({"layer": "one"}), seed=1, owner="me", lease=60)
        assert trial is not None
    assert ledger.finish(dataclasses.replace(trial, state="failed", error="no"))
    assert ledger.retry() == [1]
    assert [(t.state, t.owner, t.error) for t in ledger.trials()] == [
        ("running", "me", ""),
        ("waiting", "", ""),
    ]
