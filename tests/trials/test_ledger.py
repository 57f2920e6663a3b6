"""The ledger: claims, leases, versions, many processes."""

from __future__ import annotations

import dataclasses
import multiprocessing
import sqlite3
from pathlib import Path

import pytest

from spacelang import SpaceError
from spacelang.trials import Ledger, Proposal, Report

ARCH = {"layer": "one", "inputs": [0, 2], "rate": 0.1, "depth": 2}


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.slow
def test_a_trial_comes_back_as_it_was(url: str) -> None:
    ledger = Ledger(url)
    note = {"parent": 3, "bracket": [1, 2]}
    overrides = {"width": 4, "layers": [1, 2]}
    entered = ledger.add(0, Proposal(ARCH, 5, note, overrides), seed=2**40, owner="me", lease=60)
    assert entered is not None
    reports = (Report(0, {"acc": 0.5}), Report(1, {"acc": float("nan")}))
    ended = dataclasses.replace(
        entered, state="done", metrics={"acc": 0.75, "loss": float("inf")}, reports=reports, duration=1.5
    )
    assert ledger.finish(ended)
    (read,) = Ledger(url).trials()
    assert repr(read) == repr(ended)  # NaN is not equal to itself
    assert (read.arch, read.note, read.max_epochs, read.seed) == (ARCH, note, 5, 2**40)
    assert read.overrides == overrides


def test_a_number_is_entered_once(url: str) -> None:
    ledger = Ledger(url)
    assert ledger.add(0, Proposal(ARCH), seed=1) is not None
    assert ledger.add(0, Proposal({"layer": "two"}), seed=2) is None
    assert [trial.arch for trial in ledger.trials()] == [ARCH]


def test_a_lost_lease_is_lost_once_and_for_all(url: str) -> None:
    clock = Clock()
    ledger = Ledger(url, clock=clock)
    first = ledger.add(0, Proposal(ARCH), seed=1, owner="a", lease=60)
    assert first is not None
    assert ledger.claim("b", 60) is None
    clock.now += 59
    assert ledger.renew(0, "a", 60, [Report(0, {"acc": 0.1})])
    clock.now += 59
    assert ledger.claim("b", 60) is None
    clock.now += 2
    second = ledger.claim("b", 60)
    assert second is not None
    assert (second.owner, second.reports) == ("b", ())
    assert ledger.claim("c", 60) is None
    # The first worker was only slow: whatever it does now counts for nothing.
    assert not ledger.renew(0, "a", 60)
    assert not ledger.release(0, "a")
    assert not ledger.finish(dataclasses.replace(first, state="done", metrics={"acc": 1.0}))
    assert ledger.finish(dataclasses.replace(second, state="done", metrics={"acc": 2.0}))
    assert not ledger.finish(dataclasses.replace(second, state="failed"))
    (read,) = ledger.trials()
    assert (read.state, read.metrics) == ("done", {"acc": 2.0})
    assert ledger.claim("d", 60) is None


def test_trials_of_the_dead_and_those_given_back_are_claimed_at_once(url: str) -> None:
    ledger = Ledger(url)
    ledger.add(0, Proposal(ARCH), seed=1, owner="a", lease=60)
    ledger.add(1, Proposal(ARCH), seed=1, owner="b", lease=60)
    assert sorted(ledger.owners()) == ["a", "b"]
    assert ledger.release(1, "b")
    trial = ledger.claim("c", 60)
    assert trial is not None
    assert trial.number == 1
    assert ledger.claim("c", 60) is None
    trial = ledger.claim("c", 60, dead=["a"])
    assert trial is not None
    assert trial.number == 0


def _worker(url: str, name: str, begin: object) -> None:
    """Enter, claim and finish trials with all the others until 200 are done."""
    ledger = Ledger(url)
    begin.wait()  # type: ignore[attr-defined]
    while True:
        trial = ledger.claim(name, 600)
        if trial is None:
            number = len(ledger.trials())
            if number >= 200:
                return
            trial = ledger.add(number, Proposal(ARCH), seed=number, owner=name, lease=600)
        if trial is not None:
            assert ledger.finish(dataclasses.replace(trial, state="done", metrics={"by": float(name)}))


@pytest.mark.slow
def test_processes_share_a_ledger(url: str) -> None:
    ledger = Ledger(url)
    for number in range(100):
        ledger.add(number, Proposal(ARCH), seed=number)
    context = multiprocessing.get_context("fork")
    begin = context.Barrier(2)
    workers = [context.Process(target=_worker, args=(url, str(i), begin)) for i in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    trials = ledger.trials()
    assert [trial.number for trial in trials] == list(range(200))
    assert {trial.state for trial in trials} == {"done"}
    assert all(trial.metrics == {"by": float(trial.owner)} for trial in trials)


def test_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trials.db"
    Ledger(path).add(0, Proposal(ARCH), seed=1)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE trials SET schema = 7")
    with pytest.raises(SpaceError, match=r"has version 7 of the table.*reads version 3"):
        Ledger(path)


def test_the_table_without_overrides_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trials.db"
    Ledger(path).add(0, Proposal(ARCH), seed=1)
    with sqlite3.connect(path) as connection:
        connection.execute("ALTER TABLE trials DROP COLUMN overrides")
        connection.execute("UPDATE trials SET schema = 1")
    with pytest.raises(SpaceError, match=r"has version 1 of the table.*reads version 3"):
        Ledger(path)


def test_a_table_of_someone_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trials.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE trials (number INTEGER PRIMARY KEY, colour TEXT)")
    with pytest.raises(SpaceError, match="has version None of the table 'trials'"):
        Ledger(path)


def test_a_ledger_that_cannot_be_opened_is_named_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="cannot be opened"):
        Ledger(tmp_path / "missing" / "trials.db")
    with pytest.raises(SpaceError) as error:
        Ledger("nosuchdatabase://me:secret@host/name")
    assert "secret" not in str(error.value)
