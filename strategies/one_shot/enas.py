"""ENAS: a controller learns by reinforcement which paths of the supernet are good."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from spacelang import SpaceError
from spacelang.errors import closest, require_all, require_integer, require_number
from spacelang.language import Architecture
from spacelang.randomness import torch_generator
from spacelang.supernet import Supernet

from ..framework import (
    TRIES,
    Controller,
    Measure,
    PathSampling,
    PathSearch,
    Sample,
    Scored,
    Scorer,
    Unseen,
)

_CONVOLUTIONS = ("sep_conv_3x3", "sep_conv_5x5")
_OTHERS = ("avg_pool_3x3", "max_pool_3x3", "skip_connect")


@dataclass(frozen=True, kw_only=True)
class ENAS(PathSampling):
    """Efficient architecture search by parameter sharing.

    An LSTM controller draws the architecture of every training batch. After each epoch it takes
    `controller_steps` steps of Adam along the mean over `samples` architectures of the policy gradient

        -grad log pi(arch) * (R - b) + skip_weight * grad KL,    R = reward + entropy_weight * H(pi),

    with b moved a share 1 - `baseline_decay` towards R before its use, and H without gradient. The reward is
    taken on one validation batch, whose own statistics normalise it: the metric or exp(-loss), which `reward`
    may trade for cost. At the end the best of `candidates` draws is the result. Draws that break a constraint
    of the space, or that `filter` rejects, are drawn again.

    Args:
        controller_steps: Steps of the controller after each epoch; with `samples` 300 forward passes by
            default, as in the authors' code.
        samples: Architectures of each step.
        learning_rate, betas, eps: Adam's settings for the controller.
        baseline_decay: Decay of the baseline b, which begins as 0.
        entropy_weight: Weight of the bonus for undecided controllers.
        hidden: Size of the LSTM.
        temperature, tanh_constant: T and c: logits l become c tanh(l / T).
        op_tanh_reduce: Divides c for operations in cells.
        operation_bias: Numbers added to logits after that, by `"{cell label}/{operation}"`.
        first_bias: First values of the biases that the controller learns, by the operation of a cell, 0 where
            none is given. They are added to the logits before temperature and tanh.
        skips: Shell-style pattern of the labels of choices of two, the second of which is a skip connection,
            as in `ENASMacro`. An input choice of any set needs none.
        skip_target: Probability of skips from which KL is the divergence, summed for each layer.
        skip_weight: Weight of the mean of KL over the layers.
        candidates: Architectures drawn and compared at the end.

    The defaults are those of the authors' search of cells, but for the biases; `ENAS.micro()` has these too.
    `ENAS.macro()` has the settings of their search of layers and skips.

    Source: ENAS, Pham et al. 2018, arXiv:1802.03268, sections 2.2 to 2.4; settings from the authors' code.
    """

    controller_steps: int = 30
    samples: int = 10
    learning_rate: float = 0.0035
    betas: tuple[float, float] = (0.0, 0.999)
    eps: float = 1e-3
    baseline_decay: float = 0.99
    entropy_weight: float = 1e-4
    hidden: int = 64
    temperature: float = 1.0
    tanh_constant: float = 1.1
    op_tanh_reduce: float = 2.5
    operation_bias: Mapping[str, float] = field(default_factory=dict)
    first_bias: Mapping[str, float] = field(default_factory=dict)
    skips: str = "*/skip_*"
    skip_target: float = 0.4
    skip_weight: float = 0.8
    candidates: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        require_all(require_integer, self, "controller_steps", "samples", "hidden", "candidates", least=1)
        require_all(
            require_number, self, "learning_rate", "temperature", "tanh_constant", "op_tanh_reduce", above=0
        )
        require_all(require_number, self, "baseline_decay", "skip_target", above=0, below=1)

    @classmethod
    def micro(cls, **settings: Any) -> ENAS:
        """Return the authors' settings for the cells of `spacelang.hub.ENAS`, which favour convolutions.

        The learned bias of convolutions begins as 10, that of others as 0; in normal cells 0.25 is added for
        convolutions and -0.25 for others.

        Args:
            settings: Settings to use in place of the authors'.
        """
        fixed = {name: 0.25 if name in _CONVOLUTIONS else -0.25 for name in (*_CONVOLUTIONS, *_OTHERS)}
        biases = {
            "first_bias": dict.fromkeys(_CONVOLUTIONS, 10.0),
            "operation_bias": {f"normal/{name}": bias for name, bias in fixed.items()},
        }
        return cls(**(biases | settings))

    @classmethod
    def macro(cls, **settings: Any) -> ENAS:
        """Return the authors' settings for the layers and skips of `spacelang.hub.ENASMacro`.

        Args:
            settings: Settings to use in place of the authors'.
        """
        authors = {"controller_steps": 50, "samples": 20, "learning_rate": 1e-3, "tanh_constant": 1.5}
        return cls(**(authors | settings))

    @property
    def measurements(self) -> int:
        return self.candidates

    def controller(self, supernet: Supernet, generator: torch.Generator) -> Controller:
        """Return a controller for a supernet's decisions, with first weights drawn from `generator`."""
        return Controller(
            supernet.decision_space,
            supernet.groups.values(),
            hidden=self.hidden,
            temperature=self.temperature,
            tanh_constant=self.tanh_constant,
            op_tanh_reduce=self.op_tanh_reduce,
            operation_bias=self.operation_bias,
            first_bias=self.first_bias,
            skips=self.skips,
            skip_target=self.skip_target,
            generator=generator,
        )

    def check(self, supernet: Supernet) -> None:
        super().check(supernet)
        cells = [group for group in supernet.groups.values() if group.kind == "cell"]
        operations = {str(operation): None for group in cells for operation in group.columns}
        by_cell = [f"{group.label}/{operation}" for group in cells for operation in group.columns]
        for setting, known in (("operation_bias", by_cell), ("first_bias", operations)):
            for name in getattr(self, setting):
                if name not in known:
                    raise SpaceError(
                        f"{setting} names {name!r}, but no cell has this operation." + closest(name, known)
                    )

    def make_search(self, supernet: Supernet, previous: Any, **settings: Any) -> ControllerSearch:
        return ControllerSearch(self, supernet, **settings)


class Baseline:
    """Moving average of rewards, b <- b - (1 - d)(b - R).

    Args:
        decay: d.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.value = 0.0

    def advantage(self, reward: float) -> float:
        """Move the average, then return R - b."""
        self.value -= (1 - self.decay) * (self.value - reward)
        return reward - self.value


class ControllerSearch(PathSearch):
    """A path search whose architectures a controller draws.

    The controller lives on the CPU; rewards are means over processes, so it is the same on every rank.

    Attributes:
        controller: The LSTM.
        optimizer: Adam on the controller.
        baseline: Moving average of the rewards.
    """

    strategy: ENAS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        strategy = self.strategy
        self.controller = strategy.controller(self.supernet, torch_generator(self.seed, self.stage))
        self.optimizer = torch.optim.Adam(
            self.controller.parameters(), lr=strategy.learning_rate, betas=strategy.betas, eps=strategy.eps
        )
        self.baseline = Baseline(strategy.baseline_decay)

    def deciding(self) -> dict[str, Tensor]:
        """Return the controller's weights."""
        return {f"controller/{name}": p for name, p in self.controller.named_parameters()}

    def sample(self) -> Architecture:
        """Return an architecture for the next training batch."""
        return self._drawn(self.moment.generator)

    def rank(self, measure: Measure, generator: torch.Generator) -> list[Scored]:
        """Compare architectures drawn from the controller."""
        drawn = Unseen(None).take(self.strategy.candidates, lambda: self._drawn(generator))
        return self.strategy.best_first((measure(arch), arch) for arch in drawn)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Train the controller, then let the extras act."""
        with self.scorer() as scorer, torch.enable_grad():
            rewards = [self._step(scorer) for _ in range(self.strategy.controller_steps)]
        self.record("reward", sum(rewards) / len(rewards))
        super().on_train_epoch_end(trainer, pl_module)

    def _step(self, scorer: Scorer) -> float:
        """Take one step of the controller; return the mean reward."""
        strategy, rewards = self.strategy, []
        self.optimizer.zero_grad()
        for _ in range(strategy.samples):
            sample = self._draw(self.moment.generator)
            reward = self._reward(scorer, sample.arch)
            rewards.append(reward)
            if math.isfinite(reward):  # NaN teaches nothing
                advantage = self.baseline.advantage(reward + strategy.entropy_weight * sample.entropy)
                loss = -sample.log_prob * advantage + strategy.skip_weight * sample.skip_divergence
                torch.autograd.backward(loss / strategy.samples)
        self.optimizer.step()
        return sum(rewards) / len(rewards)

    def _reward(self, scorer: Scorer, arch: Architecture) -> float:
        self.supernet.select(arch)
        return self.worth(scorer.measure_on(self.training.validation_batch()), arch)

    def _drawn(self, generator: torch.Generator) -> Architecture:
        with torch.no_grad():
            return self.supernet.decision_space.canonical(self._draw(generator).arch)

    def _draw(self, generator: torch.Generator) -> Sample:
        """Draw until a sample satisfies the constraints and the filter.

        The gradient leaves out how likely a draw is to be accepted: a term proportional to the expectation of
        R - b, which the baseline brings near zero.
        """
        space, accepts = self.supernet.decision_space, self.strategy.filter
        for _ in range(TRIES):
            sample = self.controller.sample(generator)
            if not space.unfit(sample.arch) and (accepts is None or accepts(space.canonical(sample.arch))):
                return sample
        raise SpaceError(
            f"{TRIES} draws of the controller in a row broke a constraint of the space or were rejected by "
            "filter; loosen it, or narrow the space so that more of it is allowed."
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the state with the controller, its moments and the baseline."""
        return {
            **super().state_dict(),
            "controller": self.controller.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "baseline": self.baseline.value,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self.controller.load_state_dict(state["controller"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.baseline.value = state["baseline"]
