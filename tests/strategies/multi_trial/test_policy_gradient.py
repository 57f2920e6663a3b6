"""Policy gradients: baseline and losses against numbers worked out by hand, learning, and the controller."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from spacelang import ModelSpace, SpaceError
from spacelang.strategies import PPO, PolicyGradient, Reinforce
from spacelang.strategies.multi_trial.policy_gradient import Baseline, decision_controller
from spacelang.trials import History, Maximize, Proposal, Trial

from ...toys.spaces import CASES, Case
from ...toys.trials import Chain, Conditional
from .drive import archs, enter, finish, search


def test_baseline_oracle() -> None:
    """NATS-Bench's moving average of 0.9, corrected for its beginning."""
    baseline = Baseline(0.9)
    assert [baseline.update(r) for r in (50, 60, 40)] == pytest.approx([50, 55.2631579, 49.6309963], abs=1e-7)


def test_reinforce_loss() -> None:
    log_p = torch.tensor([-1.0, -2.0], requires_grad=True)
    loss = Reinforce().loss(log_p, log_p.detach(), torch.tensor([0.5, -1.0]))
    loss.backward()
    assert loss.item() == pytest.approx((1 * 0.5 - 2 * 1.0) / 2)
    assert log_p.grad is not None
    assert log_p.grad.tolist() == [-0.25, 0.5]


def test_ppo_loss_follows_the_ratio_only_as_far_as_the_clip() -> None:
    """Ratios 1.5 and 0.5 for either sign of the advantage; clip 0.2."""
    ratios, advantages = torch.tensor([1.5, 0.5, 1.5, 0.5]), torch.tensor([1.0, 1.0, -1.0, -1.0])
    log_p = ratios.log().requires_grad_()
    loss = PPO(clip=0.2).loss(log_p, torch.zeros(4), advantages)
    assert loss.item() == pytest.approx(-(1.2 + 0.5 - 1.5 - 0.8) / 4)
    loss.backward()
    assert log_p.grad is not None
    assert log_p.grad.tolist() == pytest.approx([0.0, -0.125, 0.375, 0.0])


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_draws_can_be_taken_again(case: Case) -> None:
    """Whatever the space: the same draws make the same architecture with the same probability."""
    controller = decision_controller(case.space().decision_space, 8, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        sample = controller.sample(generator)
        again = controller.sample(draws=sample.draws)
        assert again.arch == sample.arch
        assert again.draws == sample.draws
        assert float(again.log_prob.detach()) == float(sample.log_prob.detach())


def test_probabilities_sum_to_one() -> None:
    """Over the 28 architectures of a conditional space."""
    controller = decision_controller(Conditional().decision_space, 8, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        drawn = [controller.sample(generator) for _ in range(400)]
    found = {str(s.arch): math.exp(float(s.log_prob)) for s in drawn}
    assert len(found) == 28
    assert sum(found.values()) == pytest.approx(1, abs=1e-5)


def threes(trial: Trial) -> dict[str, float]:
    return {"value": sum(value == "three" for value in trial.arch.values()) / len(trial.arch)}


@pytest.mark.slow
@pytest.mark.parametrize("update", [PPO(), Reinforce()], ids=["ppo", "reinforce"])
def test_it_learns(update: Any) -> None:
    """After 200 trials nearly all layers are what is rewarded; at random a third of them."""
    strategy = PolicyGradient(update=update, batch=10, learning_rate=0.03, hidden=16)
    history = search(strategy, Chain(4), threes, 240)
    early = np.mean([history.score(trial) for trial in history.done[:20]])
    late = np.mean([history.score(trial) for trial in history.done[-40:]])
    assert early < 0.6
    assert late > 0.9


def test_nothing_is_learnt_from_failures_and_nan() -> None:
    """A batch of them leaves the controller as it was, so the next draws are those of a new one."""
    strategy = PolicyGradient(batch=5, learning_rate=0.1)
    outcomes: list[Any] = [None, {"value": math.nan}, {"value": math.inf}, None, {"value": math.nan}]
    failed = search(strategy, Chain(), lambda trial: outcomes[trial.number % 5], 10)
    untaught = search(
        PolicyGradient(batch=99, learning_rate=0.1), Chain(), lambda trial: {"value": float(trial.number)}, 10
    )
    taught = search(strategy, Chain(), lambda trial: {"value": float(trial.number)}, 10)
    assert archs(failed) == archs(untaught)
    assert archs(taught) != archs(untaught)


def test_trials_of_others_are_passed_over() -> None:
    space = Chain()
    history = History(space.decision_space, [Maximize("value")])
    for _ in range(5):
        finish(history, enter(history, Proposal(space.default())), threes)
    PolicyGradient(batch=5).start(space).ask(history, np.random.default_rng(0))


@pytest.mark.slow
def test_the_reward_may_be_a_function_of_the_score() -> None:
    def run(reward: Any) -> list[Any]:
        strategy = PolicyGradient(batch=4, learning_rate=0.1, reward=reward)
        return archs(search(strategy, Chain(), threes, 24))

    assert run(lambda accuracy: accuracy**3) != run(None)
    assert run(lambda accuracy: accuracy) == run(None)


def test_cells_need_no_supernet() -> None:
    """Even of a space that cannot be relaxed, such as one with a hyper-parameter in it."""
    from spacelang import value_choice

    class WithRate(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Chain(1)
            self.rate = value_choice([0.1, 0.01], label="rate")

    history = search(PolicyGradient(), WithRate(), lambda trial: {"value": 1.0}, 20)
    assert history.distinct > 2


def test_settings_are_checked() -> None:
    with pytest.raises(SpaceError, match="batch=0 must be"):
        PolicyGradient(batch=0)
    with pytest.raises(SpaceError, match=r"clip=1.5 must be a number above 0 and below 1"):
        PPO(clip=1.5)
    with pytest.raises(SpaceError, match="baseline_decay=1"):
        PolicyGradient(baseline_decay=1)


def test_invalid_trials_may_have_a_reward() -> None:
    """Where nothing is measured the controller learns from failures alone, if they have a reward."""
    space = Chain(2)

    def after(**settings: Any) -> list[float]:
        given: Any = {"update": Reinforce(), "batch": 4, "hidden": 8, "learning_rate": 0.1} | settings
        strategy = PolicyGradient(**given)
        proposer: Any = strategy.start(space)
        history = History(space.decision_space, [Maximize("value")])
        for number in range(5):
            trial = enter(history, proposer.ask(history, np.random.default_rng(number)))
            finish(history, trial, lambda trial: {"value": float("nan")} if trial.number % 2 else None)
        return [float(p.detach().abs().sum()) for p in proposer._policy.controller.parameters()]

    untouched = after()
    assert after(learning_rate=0.2) == untouched
    assert after(reward_for_invalid=-1.0) != untouched
    trial = Trial(0, {}, 0, "done", metrics={"value": 0.5})
    history = History(space.decision_space, [Maximize("value")])
    cubed = PolicyGradient(reward=lambda score: score**3, reward_for_invalid=-2)
    assert cubed.reward_of(trial, history) == 0.125
    assert cubed.reward_of(Trial(0, {}, 0, "infeasible"), history) == -2
    assert PolicyGradient().reward_of(Trial(0, {}, 0, "failed"), history) is None
