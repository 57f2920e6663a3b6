"""The driver: budget, limits, failures, resume."""

from __future__ import annotations

import json
import multiprocessing
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from optuna.samplers import RandomSampler

from spacelang import Experiment, SpaceError
from spacelang.costs import CostLimit
from spacelang.evaluators import Functional
from spacelang.files import load_yaml
from spacelang.strategies.multi_trial import Optuna, PolicyGradient, Random, RegularizedEvolution
from spacelang.trials import InProcess, Ledger, Maximize, Minimize

from ..toys import trials as toy


def experiment(directory: Path, function: Any = toy.noisy, **settings: Any) -> Experiment:
    space = settings.pop("space", None) or toy.Chain()
    strategy = settings.pop("strategy", None) or Random()
    return Experiment(space, Functional(function), strategy, directory=directory, **settings)


def test_a_search_finds_the_best(tmp_path: Path) -> None:
    for kind, layer in ((Maximize, "three"), (Minimize, "one")):
        run = experiment(tmp_path / layer, objectives=[kind("default")])
        run.run()
        assert run.best == dict.fromkeys(("layer0", "layer1", "layer2"), layer)
        assert load_yaml(run.directory / "architectures" / "1.yaml") == run.best


def test_a_search_that_knows_everything_ends_and_says_so(tmp_path: Path) -> None:
    run = experiment(tmp_path)
    run.run()
    assert len(run.history) == 27
    assert len({json.dumps(trial.arch) for trial in run.history}) == 27
    ended = {"ended": "all 27 architectures of the space were tried", "trials": "27 done"}
    assert load_yaml(tmp_path / "search.yaml") == ended


@pytest.mark.parametrize(
    "strategy",
    [RegularizedEvolution(population=2, sample=1), PolicyGradient(batch=2), Optuna(RandomSampler)],
    ids=lambda strategy: type(strategy).__name__,
)
def test_a_strategy_that_repeats_itself_ends_when_nothing_is_new(tmp_path: Path, strategy: Any) -> None:
    """Without a limit: it may try an architecture again, but not for ever."""
    run = experiment(tmp_path, strategy=strategy, space=toy.Chain(1))
    run.run()
    assert len({json.dumps(trial.arch) for trial in run.history}) == 3
    ended = load_yaml(tmp_path / "search.yaml")["ended"]  # type: ignore[index, call-overload]
    assert ended == "all 3 architectures of the space were tried"


def test_a_budget_is_exact(tmp_path: Path) -> None:
    run = experiment(tmp_path, toy.raises_on_two, max_trials=20)
    run.run()
    assert run.history.count("done") + run.history.count("failed") == 20
    again = experiment(tmp_path, toy.raises_on_two, max_trials=20)
    again.run(resume=True)
    assert len(again.history) == 20
    more = experiment(tmp_path, toy.raises_on_two, max_trials=22)
    more.run(resume=True)
    assert len(more.history) == 22


def test_failures_are_kept_and_rank_nowhere(tmp_path: Path) -> None:
    run = experiment(tmp_path, toy.raises_on_two)
    run.run()
    failed = [trial for trial in run.history if trial.state == "failed"]
    assert len(failed) == 3  # the architectures whose product is two
    assert all("ValueError: two is not allowed" in t.error and "raises_on_two" in t.error for t in failed)
    ranked = run.history.ranked(99)
    assert len(ranked) == 24
    assert [t.metrics["default"] != t.metrics["default"] for t in ranked[-4:]] == [False, True, True, True]


def test_too_many_failures_end_the_search(tmp_path: Path) -> None:
    run = experiment(tmp_path, toy.raises_on_two, max_failures=1)
    run.run()
    assert run.history.count("failed") == 2
    assert "more than max_failures=1" in load_yaml(tmp_path / "search.yaml")["ended"]  # type: ignore[index, call-overload]


def test_no_trial_begins_after_the_duration(tmp_path: Path) -> None:
    run = experiment(tmp_path, toy.slow, max_duration=1e-9)
    with pytest.raises(SpaceError, match=r"measured nothing: max_duration=1e-09 s was reached; 0 done"):
        run.run()
    assert len(run.history) == 0
    with pytest.raises(SpaceError, match="no trial was measured"):
        _ = run.best


def test_infeasible_architectures_are_counted_and_never_trained(tmp_path: Path) -> None:
    """A width of 4 has 4 * 4 + 4 parameters; identities none."""
    from torch import nn

    from spacelang import LayerChoice, ModelSpace

    class Net(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                *(LayerChoice([nn.Linear(4, 4), nn.Identity()], label=f"l{i}") for i in range(3))
            )

        def forward(self, x: Any) -> Any:
            return self.layers(x)

    seen = []

    def measure(model: nn.Module) -> float:
        seen.append(sum(p.numel() for p in model.parameters()))
        return float(seen[-1])

    run = experiment(tmp_path, measure, space=Net(), limits=[CostLimit("params", at_most=20)], max_trials=4)
    run.run()
    assert sorted(seen) == [0, 20, 20, 20]
    infeasible = [trial for trial in run.history if trial.state == "infeasible"]
    assert all(trial.metrics["params"] >= 40 for trial in infeasible)
    assert all("params at most 20, but it has" in trial.error for trial in infeasible)
    assert run.history.count("done") == 4


@pytest.mark.slow
def test_limits_that_nothing_meets_end_the_search(tmp_path: Path) -> None:
    run = experiment(tmp_path, strategy=Random(distinct=False), limits=[CostLimit("params", at_least=1)])
    with pytest.raises(SpaceError, match="measured nothing: 1000 proposals in a row"):
        run.run()
    assert "1000 proposals in a row broke a limit" in load_yaml(tmp_path / "search.yaml")["ended"]  # type: ignore[index, call-overload]
    assert run.history.count("infeasible") == 1000


def test_costs_are_objectives_without_the_evaluator(tmp_path: Path) -> None:
    run = experiment(tmp_path, objectives=[Maximize("default"), Minimize("params")])
    run.run()
    assert {trial.metrics["params"] for trial in run.pareto} == {0.0}


def test_what_is_no_executor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="executor='pool'; expected one such as ProcessPool"):
        experiment(tmp_path, executor="pool")


def test_flops_need_an_example(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="example_inputs"):
        experiment(tmp_path, limits=[CostLimit("flops", at_most=1)])


def test_the_same_seed_gives_the_same_trials(tmp_path: Path) -> None:
    runs = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        strategy = RegularizedEvolution(population=5, sample=2)
        runs.append(experiment(tmp_path / name, strategy=strategy, seed=seed, max_trials=15))
        runs[-1].run()
    a, b, c = map(toy.trials_of, runs)
    assert a == b
    assert a != c


def test_an_interrupted_search_resumes_exactly(tmp_path: Path) -> None:
    strategy = RegularizedEvolution(population=4, sample=2)
    whole = experiment(tmp_path / "whole", strategy=strategy, max_trials=12)
    whole.run()
    for at in (1, 5, 12):
        folder = tmp_path / str(at)
        with pytest.raises(KeyboardInterrupt):
            experiment(folder, toy.Interrupting(at), strategy=strategy, max_trials=12).run()
        resumed = experiment(folder, toy.Interrupting(0), strategy=strategy, max_trials=12)
        resumed.run(resume=True)
        assert toy.trials_of(resumed) == toy.trials_of(whole)


def test_a_used_folder_is_not_overwritten(tmp_path: Path) -> None:
    experiment(tmp_path, max_trials=1).run()
    with pytest.raises(SpaceError, match="already holds a run"):
        experiment(tmp_path, max_trials=1).run()
    with pytest.raises(SpaceError, match=r"objectives was .*maximize default.*, now"):
        experiment(tmp_path, max_trials=1, objectives=[Minimize("default")]).run(resume=True)


def _drive(folder: Path, ledger: str) -> None:
    """Body of a driver process."""
    run = experiment(folder, toy.slow, space=toy.Chain(4), max_trials=60, ledger=ledger)
    run.run(resume=True)


class LastFirst(InProcess):
    """Two places, one of which is taken by the first trial until nothing else is left."""

    capacity = 2

    def wait(self, timeout: float) -> list[Any]:
        self._waiting.rotate(-(self._waiting[0].number == 0))
        return super().wait(timeout)


def test_a_long_trial_does_not_make_others_slower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of the ledger are read once each, also while its first trial runs for the whole search."""
    starts: list[tuple[int, int]] = []
    trials = Ledger.trials

    def counted(self: Ledger, start: int = 0, **keywords: Any) -> list[Any]:
        found = trials(self, start, **keywords)
        starts.append((start, len(found)))
        return found

    monkeypatch.setattr(Ledger, "trials", counted)
    experiment(tmp_path, executor=LastFirst(), max_trials=20).run()
    assert max(read for _, read in starts) == 0
    assert [start for start, _ in starts][-1] == 20


@pytest.mark.slow
def test_two_machines_share_a_ledger(tmp_path: Path, url: str) -> None:
    """Together they do what one would have done alone, each trial once; one of them is killed on the way."""
    context: Any = multiprocessing.get_context("fork")
    drivers = [context.Process(target=_drive, args=(tmp_path / name, url)) for name in ("a", "b", "c")]
    for driver in drivers:
        driver.start()
    time.sleep(0.5)
    drivers[0].kill()
    for driver in drivers:
        driver.join(120)
    assert [driver.exitcode for driver in drivers] == [-signal.SIGKILL, 0, 0]
    whole = experiment(tmp_path / "whole", toy.noisy, space=toy.Chain(4), max_trials=60)
    whole.run()
    shared = Ledger(url).trials()
    assert [(t.arch, t.seed, t.state, t.metrics) for t in shared] == [
        (t.arch, t.seed, t.state, t.metrics) for t in whole.history
    ]
    assert len({trial.owner for trial in shared}) > 1
