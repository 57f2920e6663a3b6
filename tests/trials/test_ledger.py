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
    ledger = Ledger(url, identity={})
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
    ledger = Ledger(url, identity={})
    assert ledger.add(0, Proposal(ARCH), seed=1) is not None
    assert ledger.add(0, Proposal({"layer": "two"}), seed=2) is None
    assert [trial.arch for trial in ledger.trials()] == [ARCH]


def test_a_lost_lease_is_lost_once_and_for_all(url: str) -> None:
    clock = Clock()
    ledger = Ledger(url, identity={}, clock=clock)
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
    ledger = Ledger(url, identity={}, clock=Clock())
    ledger.add(0, Proposal(ARCH), seed=1, owner="a", lease=60)
    ledger.add(1, Proposal(ARCH), seed=1, owner="b", lease=60)
    claims = [(claim.number, claim.owner, claim.until) for claim in ledger.claims()]
    assert claims == [(0, "a", 1060.0), (1, "b", 1060.0)]
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
    ledger = Ledger(url, identity={})
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
    ledger = Ledger(url, identity={})
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


def test_a_missing_row_is_named_and_nothing_is_returned(tmp_path: Path) -> None:
    path = tmp_path / "trials.db"
    ledger = Ledger(path, identity={})
    for number in range(5):
        ledger.add(number, Proposal(ARCH), seed=number)
    _execute(path, "DELETE FROM trials WHERE number IN (2, 4)")
    for start in (0, 2):
        with pytest.raises(SpaceError, match=r"trial 2 is missing from the ledger '.*trials.db'.*a backup"):
            ledger.trials(start)
    assert [trial.number for trial in ledger.trials(3)] == [3]
    with pytest.raises(SpaceError, match="trial 4 is missing"):
        ledger.trials(3, least=5)


def test_a_row_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "trials.db"
    ledger = Ledger(path, identity={})
    ledger.add(0, Proposal(ARCH), seed=0)
    _execute(path, "UPDATE trials SET arch = '{broken'")
    with pytest.raises(SpaceError, match=r"trial 0 of the ledger '.*trials.db' cannot be read"):
        ledger.trials()


def _execute(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


@pytest.mark.parametrize("version", [3, 1])
def test_an_older_ledger_is_refused_in_one_line(tmp_path: Path, version: int) -> None:
    path = tmp_path / "trials.db"
    _execute(path, "CREATE TABLE trials (number INTEGER PRIMARY KEY, arch TEXT, state TEXT)")
    if version == 3:
        _execute(path, "ALTER TABLE trials ADD schema", "INSERT INTO trials VALUES (0, '{}', 'done', 3)")
    said = "version 3" if version == 3 else "version 1 to 3"
    for identity in (None, {}):
        with pytest.raises(SpaceError, match=rf"{said} of its tables; .* reads version 4") as error:
            Ledger(path, identity=identity)
        assert "\n" not in str(error.value)


def test_a_later_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trials.db"
    Ledger(path, identity={})
    _execute(path, "UPDATE studies SET schema = 7")
    with pytest.raises(SpaceError, match=r"has version 7 of its tables; this spacelang reads version 4"):
        Ledger(path)


def test_a_table_of_someone_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trials.db"
    _execute(path, "CREATE TABLE trials (number INTEGER PRIMARY KEY, colour TEXT)")
    with pytest.raises(SpaceError, match="a table 'trials' of another program"):
        Ledger(path, identity={})
