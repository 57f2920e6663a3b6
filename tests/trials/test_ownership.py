"""Whose a trial is: searches wait for trials that others run, and never write over them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from spacelang import Experiment, SpaceError
from spacelang.evaluators import Functional
from spacelang.strategies.multi_trial import Random
from spacelang.trials import (
    Budget,
    InProcess,
    Ledger,
    Maximize,
    Proposal,
    Trial,
    TrialSearch,
    Work,
    trial_search,
)
from spacelang.trials.ledger import LedgerUnavailable

from ..toys import trials as toy
from .test_ledger import Clock

OTHER = "0 elsewhere 7"
LEASE = trial_search.LEASE


class Machine:
    """A search of three trials, whose clock runs while it sleeps, and hardly while it looks."""

    def __init__(self, path: Path, measure: Any = toy.product, **budget: Any) -> None:
        self.clock = Clock()
        self.ledger = Ledger(path, identity={}, clock=self.clock)
        self.lines: list[str] = []
        self.sleeps: list[float] = []
        self.on_sleep: Callable[[], object] = lambda: None
        space = toy.Chain()
        self.search = TrialSearch(
            space,
            Random().start(space),
            self.ledger,
            InProcess(),
            Work(toy.Chain, {}, Functional(measure)),
            objectives=[Maximize("default")],
            budget=Budget(**{"max_trials": 3, **budget}),
            seed=0,
            say=self.lines.append,
            clock=lambda: self.look(),
            sleep=self.sleep,
        )

    def look(self) -> float:
        """Return the time."""
        self.clock.now += 1e-6
        return self.clock.now

    def sleep(self, seconds: float) -> None:
        """Let seconds pass."""
        self.sleeps.append(seconds)
        self.clock.now += seconds
        self.on_sleep()

    def states(self) -> list[str]:
        """The state of every trial in the ledger."""
        return [trial.state for trial in self.ledger.trials()]


def enter(path: Path) -> tuple[Ledger, Trial]:
    """Enter a trial that another worker runs until second 1060."""
    ledger = Ledger(path, identity={}, clock=Clock())
    arch = dict.fromkeys(("layer0", "layer1", "layer2"), "one")
    trial = ledger.add(0, Proposal(arch), seed=1, owner=OTHER, lease=LEASE)
    assert trial is not None
    return ledger, trial


def test_a_search_waits_for_trials_that_others_run(tmp_path: Path) -> None:
    other, trial = enter(tmp_path / "trials.db")
    machine = Machine(tmp_path / "trials.db")
    done = dataclasses.replace(trial, state="done", metrics={"default": -5.0})
    machine.on_sleep = lambda: len(machine.sleeps) == 3 and other.finish(done)
    assert machine.search.run() == "max_trials=3 was reached"
    assert machine.states() == ["done"] * 3
    assert machine.search.history[0].metrics == {"default": -5.0}
    (line,) = machine.lines
    assert line.startswith(
        "max_trials=3 was reached. Waiting for trials that others run: 0 (process 7 on elsewhere"
    )
    assert len(machine.sleeps) == 3


def test_a_trial_whose_lease_runs_out_is_run_here(tmp_path: Path) -> None:
    enter(tmp_path / "trials.db")
    machine = Machine(tmp_path / "trials.db")
    machine.search.run()
    assert machine.states() == ["done"] * 3
    assert machine.search.history[0].metrics == {"default": 1.0}
    assert sum(machine.sleeps) == pytest.approx(LEASE, abs=1)


def test_past_its_time_a_search_says_what_is_left_and_begins_nothing(tmp_path: Path) -> None:
    ledger, trial = enter(tmp_path / "trials.db")
    ledger.add(1, Proposal(trial.arch), seed=1)
    machine = Machine(tmp_path / "trials.db", max_duration=1e-9)
    ended = machine.search.run()
    assert ended.startswith(
        "max_duration=1e-09 s was reached; trials that wait: 1; trials that others run: 0 ("
    )
    assert "process 7 on elsewhere, claimed until 1970-01-01" in ended
    assert machine.states() == ["running", "waiting"]
    assert machine.sleeps == []


def test_the_last_line_never_says_finished_while_a_trial_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(**budget: Any) -> str:
        space = toy.Chain()
        Experiment(space, Functional(toy.product), Random(), directory=tmp_path, **budget).run(resume=True)
        return capsys.readouterr().err

    assert "Search finished" in run(max_trials=1)
    ledger = Ledger(tmp_path / "trials.db")
    ledger.add(1, Proposal(ledger.trials()[0].arch), seed=1, owner=OTHER, lease=LEASE)
    said = run(max_trials=3, max_duration=1e-9)
    assert "Search finished" not in said
    assert "Search stopped, but not finished: max_duration" in said
    assert "trials that others run: 1 (process 7 on elsewhere" in said
    ledger.release(1, OTHER)
    assert "Search finished" in run(max_trials=3)


class Reporting:
    """An evaluator that reports until it is stopped; something happens at its first report."""

    def __init__(self, first: Callable[[], object]) -> None:
        self.first = first
        self.reports = 0

    def __call__(self, model: nn.Module, report: Callable[[dict[str, float], int], None]) -> float:
        while True:
            if self.reports == 1:
                self.first()
            report({"default": 99.0}, self.reports)
            self.reports += 1
            time.sleep(0.001)


def test_a_trial_that_another_has_claimed_is_left_to_it(tmp_path: Path) -> None:
    """This machine slept: its lease ran out, and another finished the trial."""
    path = tmp_path / "trials.db"

    def steal() -> None:
        thief = Ledger(path, clock=lambda: machine.clock.now + LEASE + 1)
        trial = thief.claim(OTHER, LEASE)
        assert trial is not None
        assert thief.finish(dataclasses.replace(trial, state="done", metrics={"default": -5.0}))

    measure = Reporting(steal)
    machine = Machine(path, measure, max_trials=1)
    with pytest.warns(UserWarning, match="lease of trial 0 ran out and another worker has it now"):
        machine.search.run()
    assert measure.reports == 1
    assert machine.search.history[0].metrics == {"default": -5.0}
    assert machine.states() == ["done"]


class Database:
    """A ledger's database that answers or does not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers = True
        for name in ("add", "claim", "claims", "finish", "release", "renew", "trials"):
            monkeypatch.setattr(Ledger, name, self.asked(getattr(Ledger, name)))

    def asked(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """The method, which fails when the database does not answer."""

        def ask(*arguments: Any, **options: Any) -> Any:
            if not self.answers:
                raise LedgerUnavailable("the ledger 'x' failed: no answer", "Try later.")
            return method(*arguments, **options)

        return ask

    def fall(self) -> None:
        """Answer no longer."""
        self.answers = False


@pytest.mark.filterwarnings("ignore:the ledger 'x' failed. no answer; trying again")
def test_a_search_that_cannot_renew_its_leases_ends_and_records_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_search, "LEASE", 0.2)
    database = Database(monkeypatch)
    machine = Machine(tmp_path / "trials.db", Reporting(database.fall))
    machine.look = time.monotonic
    with pytest.raises(SpaceError, match="because its trials' leases ran out: the ledger 'x' failed"):
        machine.search.run()
    database.answers = True
    assert machine.states() == ["running"]


@pytest.mark.parametrize("at", [1, 2, 3])
def test_the_same_process_continues_after_the_database_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """The trial that could not be handed back is known to be nobody's."""
    database = Database(monkeypatch)
    seen = []

    def measure(model: nn.Module) -> float:
        seen.append(model)
        database.answers = len(seen) != at
        return toy.product(model)

    machine = Machine(tmp_path / "trials.db", measure)
    with (
        pytest.warns(UserWarning, match="the ledger 'x' failed: no answer; trying again for 60 s"),
        pytest.raises(SpaceError, match=r"the ledger 'x' failed: no answer\. Try later\."),
    ):
        machine.search.run()
    assert sum(machine.sleeps) == pytest.approx(LEASE, abs=1)
    database.answers = True
    assert machine.states() == ["done"] * (at - 1) + ["running"]
    again = Machine(tmp_path / "trials.db", measure)
    again.search.run()
    assert again.states() == ["done"] * 3
    assert again.sleeps == []
    assert len(seen) == 4


def test_a_result_outlives_a_short_failure_of_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(monkeypatch)

    def measure(model: nn.Module) -> float:
        database.fall()
        return toy.product(model)

    machine = Machine(tmp_path / "trials.db", measure, max_trials=1)
    machine.on_sleep = lambda: setattr(database, "answers", len(machine.sleeps) == 3)
    with pytest.warns(UserWarning, match="trying again"):
        machine.search.run()
    assert machine.states() == ["done"]
    assert machine.sleeps == [1, 2, 4]
