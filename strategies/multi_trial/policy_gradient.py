"""Reinforcement learning: a controller is rewarded for good architectures."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from spacelang import ModelSpace
from spacelang.arguments import KnownArguments
from spacelang.errors import require_integer, require_number
from spacelang.language import Architecture, DecisionSpace
from spacelang.randomness import torch_generator, torch_generator_from
from spacelang.supernet import Group
from spacelang.trials import Exhausted, Proposer, Trial

from .rewards import ControllerSearch, Policy, RewardSettings

if TYPE_CHECKING:
    from ..framework import Controller

_TRIES = 1000


@dataclass(frozen=True, kw_only=True)
class PPO(KnownArguments):
    """Proximal policy optimisation: the loss of a draw is -min(r A, clip(r, 1 - clip, 1 + clip) A).

    Here r = pi(draw) / pi_old(draw), and A the advantage.

    Args:
        clip: Distance from 1 up to which the ratio r is followed.
        steps: Steps of Adam on one batch.

    Source: Schulman et al. 2017, arXiv:1707.06347, eq. 7.
    """

    clip: float = 0.2
    steps: int = 4

    def __post_init__(self) -> None:
        require_number("clip", self.clip, above=0, below=1)
        require_integer("steps", self.steps, least=1)

    def loss(self, log_p: Tensor, old: Tensor, advantages: Tensor) -> Tensor:
        """Return the mean loss of a batch.

        Args:
            log_p: Value of log pi for each draw, (batch,).
            old: The same before the first step, without gradient, (batch,).
            advantages: Advantage of each draw, (batch,).
        """
        ratio = (log_p - old).exp()
        clipped = ratio.clamp(1 - self.clip, 1 + self.clip)
        return -(ratio * advantages).minimum(clipped * advantages).mean()


@dataclass(frozen=True, kw_only=True)
class Reinforce(KnownArguments):
    """REINFORCE: the loss of a draw is -log pi(draw) * A, for one step of Adam.

    Source: Williams 1992; NAS-RL, Zoph and Le 2017, arXiv:1611.01578, section 3.2.
    """

    steps: int = field(default=1, init=False)

    def loss(self, log_p: Tensor, old: Tensor, advantages: Tensor) -> Tensor:
        """Return the mean loss of a batch; see `PPO.loss`."""
        return -(log_p * advantages).mean()


@dataclass(frozen=True, kw_only=True)
class PolicyGradient(RewardSettings):
    """Draw architectures from a controller, an LSTM that makes one decision after another.

    After each batch of trials the controller learns from the advantages A = R - b. The reward is
    R = reward(score) - entropy_weight * log pi(draw), where the expectation of the second part is the entropy
    of the policy. The baseline b is a moving average of the rewards including R, corrected for its beginning
    at 0. Trials that failed, gave NaN or broke a limit teach nothing, or get `reward_for_invalid`. Draws that
    break a constraint of the space are drawn again. With several objectives the first decides.

    When a search is resumed the controller learns again from all batches, in a few hundredths of a second for
    each trial.

    Args:
        update: `PPO()` as in NASNet, or `Reinforce()` as in NAS-RL.
        batch: Number of trials after which the controller learns.
        learning_rate: Adam's learning rate.
        hidden: Size of the LSTM.
        baseline_decay: Decay of the moving average.
        entropy_weight: Weight of the bonus for undecided controllers.
        reward: Reward from a score, for which more is better; NAS-RL uses the cube of the accuracy.
        reward_for_invalid: Reward of trials that failed, gave NaN or broke a limit; None learns nothing from
            them. It should lie below the rewards of others.

    Source: NASNet, Zoph et al. 2018, arXiv:1707.07012, appendix A.2; the moving average as in NATS-Bench.
    """

    update: PPO | Reinforce = field(default_factory=PPO)
    hidden: int = 100
    baseline_decay: float = 0.95
    entropy_weight: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("hidden", self.hidden, least=1)
        require_number("baseline_decay", self.baseline_decay, least=0, below=1)

    def start(self, space: ModelSpace) -> Proposer:
        """Begin a search."""
        return ControllerSearch(partial(_Policy, self))


class Baseline:
    """Moving average m <- d m + (1 - d) R, divided by 1 - d^t so that it does not begin near 0.

    Args:
        decay: Share d of the average that each reward leaves.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self._sum = 0.0
        self._weight = 0.0

    def update(self, reward: float) -> float:
        """Add a reward; return the average."""
        self._sum = self.decay * self._sum + (1 - self.decay) * reward
        self._weight = self.decay * self._weight + (1 - self.decay)
        return self._sum / self._weight


class _Policy(Policy):
    """A controller, its optimiser and its baseline.

    Args:
        settings: Settings of the strategy.
        space: Decisions to make.
        seed: Seeds the first weights.
    """

    def __init__(self, settings: PolicyGradient, space: DecisionSpace, seed: int) -> None:
        super().__init__(settings)
        self.settings = settings
        self.space = space
        self.seed = seed
        self.baseline = Baseline(settings.baseline_decay)
        self.controller = decision_controller(space, settings.hidden, torch_generator(seed))
        self.optimizer = torch.optim.Adam(self.controller.parameters(), lr=settings.learning_rate)

    def propose(self, number: int, rng: np.random.Generator) -> tuple[Architecture, dict[str, Any]]:
        """See `Policy`."""
        arch, draws = drawn_fit(self.controller, self.space, torch_generator_from(rng))
        return arch, {"draws": draws}

    def learn_from(self, trials: Sequence[Trial], rewards: Sequence[float]) -> None:
        """See `Learner`."""
        settings = self.settings
        draws = [trial.note["draws"] for trial in trials]
        with torch.no_grad():
            old = self._log_p(draws)
        with_entropy = [
            reward - settings.entropy_weight * float(log_p)
            for reward, log_p in zip(rewards, old, strict=True)
        ]
        advantages = torch.tensor([reward - self.baseline.update(reward) for reward in with_entropy])
        for _ in range(settings.update.steps):
            self.optimizer.zero_grad()
            torch.autograd.backward(settings.update.loss(self._log_p(draws), old, advantages))
            self.optimizer.step()

    def _log_p(self, draws: list[list[int]]) -> Tensor:
        return torch.stack([self.controller.sample(draws=drawn).log_prob for drawn in draws])  # (batch,)


def decision_controller(
    space: DecisionSpace,
    hidden: int,
    generator: torch.Generator,
    *,
    context: int = 0,
    without: Collection[str] = (),
) -> Controller:
    """Return a controller that makes every decision by itself, also those in cells, as in NASNet.

    Args:
        space: Decisions to make.
        hidden, generator, context: See `Controller`.
        without: Labels of decisions that it does not make.
    """
    from ..framework import Controller  # late: the framework imports Lightning, which trials do not need

    groups = [
        Group(d.label, (d.label,), tuple(d.candidates), (d,))
        for d in space.by_label.values()
        if d.label not in without
    ]
    return Controller(space, groups, hidden=hidden, tanh_constant=2.5, generator=generator, context=context)


def drawn_fit(
    controller: Controller,
    space: DecisionSpace,
    generator: torch.Generator,
    context: Tensor | None = None,
    decided: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[Architecture, list[int]]:
    """Return an architecture that satisfies the constraints of a space, and the draws that made it.

    Args:
        controller: Makes the decisions.
        space: The space.
        generator: Generator for the draws.
        context: See `Controller.sample`.
        decided: Decisions that the controller does not make.

    Raises:
        Exhausted: draw after draw broke a constraint.
    """
    with torch.no_grad():
        for _ in range(_TRIES):
            sample = controller.sample(generator, context=context)
            arch = {**decided, **sample.arch}
            if not space.unfit(arch):
                return arch, list(sample.draws)
    raise Exhausted(f"{_TRIES} draws of the controller in a row broke a constraint of the space")
