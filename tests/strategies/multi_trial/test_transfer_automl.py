"""Transfer Neural AutoML: statistics and the controller by hand, tasks, and what earlier searches taught."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spacelang import Experiment, SpaceError, value_choice
from spacelang.evaluators import Functional
from spacelang.strategies import PPO, TransferNeuralAutoML
from spacelang.strategies.multi_trial.policy_gradient import decision_controller
from spacelang.strategies.multi_trial.transfer_automl import TaskStatistics
from spacelang.testing import check_strategy
from spacelang.trials import History, Maximize, Trial

from ...toys.trials import Chain
from .drive import archs, search

SMALL: dict[str, Any] = {"batch": 4, "hidden": 8, "embedding": 3, "learning_rate": 0.05}


class Tasks(Chain):
    """A chain of layers, for one of several tasks."""

    def __init__(self, layers: int = 3, tasks: tuple[str, ...] = ("ones", "threes")) -> None:
        super().__init__(layers)
        self.task = value_choice(tasks, label="task")


def measure(trial: Trial) -> dict[str, float]:
    """How many layers are what the task wants; the tasks are on different scales."""
    wanted = trial.arch["task"].removesuffix("s")
    share = sum(value == wanted for label, value in trial.arch.items() if label != "task") / 3
    return {"value": share if wanted == "one" else 50 + 10 * share}


def test_statistics_by_hand() -> None:
    """Rewards 50, 60, 40 with a decay of 0.9."""
    statistics, found = TaskStatistics(0.9), []
    for reward in (50.0, 60.0, 40.0):
        advantage = statistics.advantage(reward)
        found.append((statistics.mean, statistics.deviation, advantage))
    means, deviations, advantages = zip(*found, strict=True)
    assert means == pytest.approx([50, 55.2631578947, 49.6309963100], abs=1e-9)
    assert deviations == pytest.approx([0, 4.9930699897, 8.3650784446], abs=1e-6)
    assert advantages == pytest.approx([0, 0.9486832981, -1.1513336515], abs=1e-9)


def test_equal_rewards_teach_nothing() -> None:
    statistics = TaskStatistics(0.9)
    assert [statistics.advantage(0.1) for _ in range(20)] == [0.0] * 20


def test_the_task_joins_every_input_and_leads_around_the_lstm() -> None:
    """Probabilities of the first two layers by hand."""
    space = Chain(2).decision_space
    net: Any = decision_controller(space, 4, torch.Generator().manual_seed(0), context=3)
    task = torch.tensor([0.5, -1.0, 2.0])
    draws = (2, 0)
    log_p, state, inputs = torch.zeros(()), (torch.zeros(1, 4), torch.zeros(1, 4)), net.start
    for layer, drawn in enumerate(draws):
        joined = torch.cat([inputs, task[None]], dim=1)
        state = net.lstm(joined, state)
        logits = 2.5 * torch.tanh(net.heads[layer](state[0] + net.around(joined))[0])
        log_p = log_p + logits.log_softmax(0)[drawn]
        inputs = net.embeddings[layer].weight[drawn : drawn + 1]
    sample = net.sample(draws=draws, context=task)
    torch.testing.assert_close(sample.log_prob, log_p)
    assert sample.arch == {"layer0": "three", "layer1": "one"}
    other = net.sample(draws=draws, context=-task)
    assert float(other.log_prob.detach()) != float(log_p.detach())


def test_a_batch_is_for_one_task_and_tasks_are_drawn_uniformly() -> None:
    history = search(TransferNeuralAutoML(**SMALL), Tasks(), measure, 200)
    tasks = [trial.arch["task"] for trial in history]
    batches = [set(tasks[k : k + 4]) for k in range(0, 200, 4)]
    assert all(len(batch) == 1 for batch in batches)
    assert 15 < sum(batch == {"ones"} for batch in batches) < 35  # of 50


@pytest.mark.slow
def test_it_learns_what_each_task_wants() -> None:
    """One controller, tasks that want the opposite, on scales far apart."""
    history = search(TransferNeuralAutoML(**SMALL), Tasks(), measure, 400)
    for task, wanted in (("ones", "one"), ("threes", "three")):
        late = [t for t in list(history)[-120:] if t.arch["task"] == task]
        assert np.mean([[t.arch[f"layer{i}"] == wanted for i in range(3)] for t in late]) > 0.7  # random: 1/3


def policy(strategy: Any, space: Any, history: History) -> Any:
    proposer = strategy.start(space)
    proposer.ask(history, np.random.default_rng(0))
    return proposer._policy


def weights(of: Any) -> list[list[float]]:
    named = [*of.controller.parameters(), *(of.embeddings[name] for name in sorted(of.embeddings))]
    return [parameter.detach().flatten().tolist() for parameter in named]


def test_a_transferred_controller_is_the_one_that_the_other_search_ended_with() -> None:
    """Bit for bit, from its ledger; a new task has a random embedding and no statistics."""
    first = TransferNeuralAutoML(**SMALL)
    history = search(first, Tasks(), measure, 20)
    expected = policy(first, Tasks(), history)
    second = TransferNeuralAutoML(known=[history], **SMALL)
    space = Tasks(tasks=("twos",))
    empty = History(space.decision_space, [Maximize("value")])
    found = policy(second, space, empty)
    assert found.embeddings.keys() == {"ones", "threes", "twos"}
    assert found.embeddings["twos"].abs().sum() > 0
    twos = found.embeddings.pop("twos")
    assert weights(found) == weights(expected)
    assert float(twos.detach().abs().max()) <= 0.1
    third = search(second, space, lambda t: {"value": 1.0 * (t.arch["layer0"] == "two")}, 12, seed=3)
    assert third.done[-1].note["task"] == "twos"
    both = TransferNeuralAutoML(known=[history, third], **SMALL)
    alone = History(Chain(3).decision_space, [Maximize("value")])
    after = policy(both, Chain(3), alone)
    after.embeddings.pop("task")
    assert weights(after) == weights(policy(second, space, third))


@pytest.mark.slow
def test_what_was_learnt_helps_a_new_task() -> None:
    """A task that wants what an earlier one did begins better than from nothing."""
    history = search(TransferNeuralAutoML(**SMALL), Tasks(tasks=("threes",)), measure, 200)

    def first_trials(**settings: Any) -> float:
        found = search(
            TransferNeuralAutoML(**settings, **SMALL),
            Chain(3),
            lambda t: {"value": sum(v == "three" for v in t.arch.values()) / 3},
            12,
        )
        return float(np.mean([found.score(trial) for trial in found.done]))

    assert first_trials(known=[history]) > first_trials() + 0.2


def test_a_space_without_tasks_has_one() -> None:
    history = search(TransferNeuralAutoML(task="digits", **SMALL), Chain(3), lambda t: {"value": 1.0}, 5)
    assert {trial.note["task"] for trial in history} == {"digits"}
    assert "digits" not in archs(history)[0]


@pytest.mark.parametrize("update", [None, pytest.param(PPO(steps=2), marks=pytest.mark.exhaustive)])
def test_promises(update: Any) -> None:
    known = search(TransferNeuralAutoML(**SMALL), Tasks(), measure, 9)
    settings = {} if update is None else {"update": update}
    found = check_strategy(
        TransferNeuralAutoML(known=[known], **settings, **SMALL),
        trials=10,
        spaces={"Tasks": Tasks(), "Chain": Chain(4)},
    )
    assert found.searched == ("Tasks",)
    assert "differ in these decisions: 'layer3'" in found.refused["Chain"]


def test_a_search_resumes(tmp_path: Path) -> None:
    """With the task as a decision, and an earlier ledger."""
    known = search(TransferNeuralAutoML(**SMALL), Tasks(), measure, 9)

    def run(name: str, trials: int) -> Experiment:
        strategy = TransferNeuralAutoML(known=[known], **SMALL)
        evaluator = Functional(lambda model: float(model.task == "ones"))
        settings: dict[str, Any] = {"directory": tmp_path / name, "max_trials": trials, "seed": 2}
        experiment = Experiment(Tasks(), evaluator, strategy, **settings)
        experiment.run(resume=True)
        return experiment

    whole = run("whole", 10)
    run("parts", 5)
    assert archs(run("parts", 10).history) == archs(whole.history)
    assert {t.metrics["default"] for t in whole.history} == {0.0, 1.0}


def test_misuse() -> None:
    known = search(TransferNeuralAutoML(**SMALL), Tasks(), measure, 5)
    with pytest.raises(SpaceError, match=r"expected a sequence of histories: known=\[history\]"):
        TransferNeuralAutoML(known=known)  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match="differ in these decisions: 'layer3'"):
        TransferNeuralAutoML(known=[known]).start(Chain(4))
    with pytest.raises(SpaceError, match="without trials of TransferNeuralAutoML"):
        TransferNeuralAutoML(known=[History(Chain(3).decision_space, [Maximize("value")])])
    with pytest.raises(SpaceError, match=r"decay=1 must be"):
        TransferNeuralAutoML(decay=1)
