"""Driver of a multi-trial search: it asks, checks, submits and records."""

from __future__ import annotations

import dataclasses
import itertools
import re
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..arguments import KnownArguments
from ..errors import SpaceError, listed, require_integer, require_number
from ..language import Space
from ..randomness import seed_from
from .evaluator import ArchitectureEvaluator
from .executors import Executor
from .heartbeat import Heartbeat, patiently
from .history import History
from .ledger import Ledger, LedgerUnavailable, dead_owners, new_owner
from .objectives import Objective
from .proposer import Exhausted, Proposer, Stopper, require_proposal
from .trial import Proposal, Report, Trial, storable
from .work import Outcome, Rebuilt, Work

LEASE = 60.0  # seconds
_POLL = 0.5  # seconds between looks at trials that others run
_INFEASIBLE_IN_A_ROW = 1000
_ALIKE = 5
_NUMBER = re.compile(r"0x[0-9a-f]+|[0-9]+", re.IGNORECASE)

Costs = Callable[[Proposal], Mapping[str, float]]
Check = Callable[[Mapping[str, float]], str]


@dataclass(frozen=True)
class Budget(KnownArguments):
    """Conditions that end a search.

    Args:
        max_trials: Number of trials to train; failed ones count, infeasible ones do not.
        max_duration: Seconds after which no trial begins, over all runs of the search.
        max_failures: Number of trials that may fail; one more ends the search. None ends it only where no
            trial was measured and the first five failures of this run have one and the same reason.
    """

    max_trials: int | None = None
    max_duration: float | None = None
    max_failures: int | None = None

    def __post_init__(self) -> None:
        require_integer("max_trials", self.max_trials, least=1, optional=True)
        require_number("max_duration", self.max_duration, above=0, optional=True)
        require_integer("max_failures", self.max_failures, least=0, optional=True)


class TrialSearch:
    """One search, in one process, over a ledger that others may work on too.

    Args:
        space: Space to search.
        proposer: Proposes what to try next.
        ledger: Record of every trial, before and after it runs.
        executor: Runs the trials.
        work: How to run one trial.
        objectives: Metrics to maximize or minimize.
        budget: When to end.
        seed: Seeds every random draw of the search.
        costs: Returns the costs of a proposal before it is trained; they join the trial's metrics.
        check: Returns from these costs which limit is broken, or an empty text.
        on_change: Called with the search whenever a trial began or ended.
        say: Called with a line for the user, such as what the search waits for.
        clock: Returns seconds that pass evenly.
        sleep: Waits for seconds.
    """

    def __init__(
        self,
        space: Space,
        proposer: Proposer,
        ledger: Ledger,
        executor: Executor,
        work: Work,
        *,
        objectives: Sequence[Objective],
        budget: Budget,
        seed: int,
        costs: Costs | None = None,
        check: Check | None = None,
        on_change: Callable[[TrialSearch], None] | None = None,
        say: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.space = space.search_space
        self.ledger = ledger
        self.budget = budget
        self.ended = ""
        decisions = Rebuilt(space, lambda rebuilt: rebuilt.search_space)
        self.history = History(self.space, objectives, ledger.trials(), rebuilt=decisions)
        self._proposer = proposer
        self._executor = executor
        self._work = work
        self._seed = seed
        self._costs = costs or (lambda proposal: {})
        self._check = check or (lambda costs: "")
        self._on_change = on_change or (lambda search: None)
        self._say = say or (lambda line: None)
        self._clock = clock
        self._sleep = sleep
        self._waited_for: list[tuple[int, str]] = []
        self._owner = new_owner()
        self._running: dict[int, Trial] = {}
        self._refused: dict[int, str] = {}  # why running trials are stopped that have to fail
        self._lost: set[int] = set()  # trials that are another's, or stopped because no lease is renewed
        self._broken_in_a_row = 0
        self._failed_before = {trial.number for trial in self.history.failed}
        self._lock = threading.Lock()
        self._heart = Heartbeat(self._owner, self._renew, LEASE, clock=clock)

    def run(self) -> str:
        """Search until the budget is used up or nothing new can be proposed; return which.

        It ends when nobody runs a trial of the study any longer. Past `max_duration` it says who runs which.

        Raises:
            SpaceError: The ledger was lost; running trials are cancelled, and released where it answers.
        """
        earlier = sum(trial.duration for trial in self.history) / self._executor.capacity
        start = self._clock() - earlier
        self._executor.open(self._work, self._on_report)
        self._heart.start()  # a thread, since a trial of the in-process executor keeps this one busy
        try:
            while True:
                self._refresh()
                self._fill(start)
                if self._running:
                    for outcome in self._executor.wait(LEASE / 4):
                        self._finish(outcome)
                    self._drop_lost()
                elif not self._others_run(start):
                    return self.ended
        except BaseException:
            self._executor.close()  # before another may claim what was running
            self._give_back()
            raise
        finally:
            self._heart.stop()
            self._executor.close()

    # -- beginning trials ------------------------------------------------------------------------------

    def _fill(self, start: float) -> None:
        """Begin trials while there is room for them."""
        self.ended = ""
        while len(self._running) < self._executor.capacity and not self.ended:
            self.ended = self._out_of_time(start)
            trial = None if self.ended else self._leftover()
            if trial is None and not self.ended:
                self.ended = self._used_up()
                trial = None if self.ended else self._propose()
            if trial is not None:
                self._begin(trial)

    def _leftover(self) -> Trial | None:
        """Claim a trial that another run or worker entered and cannot finish."""
        if len(self.history.running) == len(self._running):
            return None
        dead = dead_owners(claim.owner for claim in self.ledger.claims())
        return self.ledger.claim(self._owner, LEASE, dead=dead)

    def _out_of_time(self, start: float) -> str:
        """Return that no trial may begin any longer, or an empty text."""
        limit = self.budget.max_duration
        late = limit is not None and self._clock() - start >= limit
        return f"max_duration={limit} s was reached" if late else ""

    def _used_up(self) -> str:
        """Return which other part of the budget is used up, or an empty text."""
        budget, history = self.budget, self.history
        begun = len(history) - history.count("infeasible")
        if budget.max_trials is not None and begun >= budget.max_trials:
            return f"max_trials={budget.max_trials} was reached"
        if budget.max_failures is not None and history.count("failed") > budget.max_failures:
            return f"more than max_failures={budget.max_failures} trials failed"
        if budget.max_failures is None and self._fail_alike():
            return f"the first {_ALIKE} trials failed for one reason (max_failures=... would allow more)"
        return ""

    def _fail_alike(self) -> bool:
        """Return whether the first trials of this run all failed with one error, up to the numbers in it."""
        if self.history.done:
            return False
        new = (trial for trial in self.history.failed if trial.number not in self._failed_before)
        errors = [_NUMBER.sub("#", trial.reason) for trial in itertools.islice(new, _ALIKE)]
        return len(errors) == _ALIKE and len(set(errors)) == 1

    def _propose(self) -> Trial | None:
        """Enter the next proposal into the ledger; None if it is infeasible, or its number was taken."""
        number = len(self.history)
        try:
            proposal = self._proposer.ask(self.history, np.random.default_rng((self._seed, number)))
        except Exhausted as reason:
            self.ended = str(reason)
            return None
        require_proposal(self._proposer, proposal)
        decisions = self.history.decisions(proposal.overrides)
        proposal = dataclasses.replace(proposal, arch=decisions.canonical(proposal.arch))
        self._check_overrides(proposal)
        costs = dict(self._costs(proposal))
        broken = self._check(costs)
        trial = self.ledger.add(
            number,
            proposal,
            seed=seed_from(self._seed, number, 1),
            owner=self._owner,
            lease=LEASE,
            infeasible=broken,
            metrics=costs,
        )
        if trial is None:
            self._refresh()
            return None
        self._broken_in_a_row = self._broken_in_a_row + 1 if broken else 0
        if not broken:
            return trial
        self._know(trial)
        if self._broken_in_a_row == _INFEASIBLE_IN_A_ROW:
            self.ended = (
                f"{_INFEASIBLE_IN_A_ROW} proposals in a row broke a limit, the last: {broken} "
                "(space.report(example_inputs, limits=[...]) says whether a limit can be met)"
            )
        return None

    def _check_overrides(self, proposal: Proposal) -> None:
        """Refuse overrides where an evaluator, which sees only the architecture, would mistake the model."""
        evaluator, overrides = self._work.evaluator, dict(proposal.overrides)
        sees_model = not isinstance(evaluator, ArchitectureEvaluator)
        if overrides and not sees_model and not self.space.problems(proposal.arch):
            raise SpaceError(
                f"{type(evaluator).__name__} looks architectures up without a model, but the strategy trains "
                f"models of the space with {overrides!r}. Use an evaluator that measures models."
            )

    def _begin(self, trial: Trial) -> None:
        with self._lock:
            self._lost.discard(trial.number)
            self._running[trial.number] = dataclasses.replace(trial, reports=())
        self._know(trial)
        self._executor.submit(trial)

    # -- while they run --------------------------------------------------------------------------------

    def _on_report(self, number: int, report: Report) -> bool:
        with self._lock:
            trial = self._running[number]
            # A trial whose worker was lost begins again: its new reports replace the old ones.
            earlier = (known for known in trial.reports if known.epoch < report.epoch)
            trial = dataclasses.replace(trial, reports=(*earlier, report))
            self._running[number] = trial
        self.history.add(trial)
        if not self._is_mine(trial):
            self._lost.add(number)
            return False
        return self._goes_on(trial)

    def _is_mine(self, trial: Trial) -> bool:
        """Store the reports of a running trial; return whether it may go on."""
        if self._heart.failure is not None:
            return False
        try:
            return self.ledger.renew(trial.number, self._owner, LEASE, trial.reports)
        except LedgerUnavailable:
            return True  # the heartbeat tries again
        except SpaceError as error:
            self._heart.fail(error)
            return False

    def _goes_on(self, trial: Trial) -> bool:
        """Return whether the strategy lets a running trial continue."""
        if not isinstance(self._proposer, Stopper):
            return True
        try:
            return self._proposer.goes_on(trial, self.history)
        except SpaceError as error:  # its reports lack what the strategy compares
            self._refused[trial.number] = str(error)
            return False

    def _renew(self) -> None:
        """Renew the leases of running trials."""
        with self._lock:
            trials = list(self._running.values())
        for trial in trials:
            if not self.ledger.renew(trial.number, self._owner, LEASE, trial.reports):
                self._lost.add(trial.number)

    def _refresh(self) -> None:
        """Learn what other processes have done."""
        others = (trial.number for trial in self.history.running if trial.number not in self._running)
        first = min(others, default=len(self.history))
        for trial in self.ledger.trials(first, least=len(self.history)):
            if trial.number not in self._running:
                self.history.add(trial)

    def _others_run(self, start: float) -> bool:
        """Wait a moment for trials that others run; return whether the search is to look again."""
        if not self.history.running:
            return False
        claims = self.ledger.claims()
        named = ", ".join(map(str, claims))
        if self._out_of_time(start):
            waiting = {trial.number for trial in self.history.running} - {claim.number for claim in claims}
            waits = f"; trials that wait: {listed(sorted(waiting))}" if waiting else ""
            runs = f"; trials that others run: {named}" if claims else ""
            self.ended += waits + runs
            return False
        who = [(claim.number, claim.owner) for claim in claims]
        if claims and who != self._waited_for:
            self._say(f"{self.ended}. Waiting for trials that others run: {named}.")
        self._waited_for = who
        self._sleep(_POLL)
        return True

    # -- ending them -----------------------------------------------------------------------------------

    def _finish(self, outcome: Outcome) -> None:
        if outcome.number in self._lost:
            return  # what it measured may be cut short, and is not this search's to record
        trial = self._running[outcome.number]
        metrics = {**trial.metrics, **outcome.metrics}
        error = outcome.error or self._refused.pop(outcome.number, "") or self._lacks(metrics)
        ended = dataclasses.replace(
            trial,
            state="failed" if error else "done",
            metrics=metrics,
            reports=outcome.reports or trial.reports,
            error=storable(error),
            duration=outcome.duration,
        )
        patience = 0.0 if self._heart.failure else LEASE
        kept = patiently(
            lambda: self.ledger.finish(ended), seconds=patience, clock=self._clock, wait=self._sleep
        )
        with self._lock:
            del self._running[outcome.number]
        if kept:
            self._know(ended)

    def _lacks(self, metrics: Mapping[str, float]) -> str:
        """Return which objective has no metric, or an empty text."""
        try:
            for objective in self.history.objectives:
                objective.score(metrics)
        except SpaceError as error:
            return str(error)
        return ""

    def _drop_lost(self) -> None:
        """Cancel the running trials that are another's by now."""
        self._heart.require()
        for number in sorted(self._lost & self._running.keys()):
            self._executor.cancel(number)
            with self._lock:
                del self._running[number]
            warnings.warn(
                f"the lease of trial {number} ran out and another worker has it now, so it is cancelled "
                "here. Was this machine asleep, or is its clock wrong?",
                stacklevel=2,
            )

    def _know(self, trial: Trial) -> None:
        self.history.add(trial)
        self._on_change(self)

    def _give_back(self) -> None:
        """Cancel running trials, and release them for a later run to claim while the ledger answers."""
        answers = True
        for number in list(self._running):
            self._executor.cancel(number)
            if answers:
                try:
                    self.ledger.release(number, self._owner)
                except SpaceError:  # a later run finds out that this one is gone
                    answers = False
