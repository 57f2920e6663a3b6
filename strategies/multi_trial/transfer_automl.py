"""Transfer Neural AutoML: one controller searches for many tasks, and remembers earlier ones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from spacelang import ModelSpace, SpaceError
from spacelang.errors import require_all, require_integer, require_number
from spacelang.language import Architecture, DecisionSpace
from spacelang.randomness import torch_generator, torch_generator_from
from spacelang.trials import History, Proposer, Trial

from .policy_gradient import PPO, Reinforce, decision_controller, drawn_fit
from .rewards import ControllerSearch, Learner, Policy, RewardSettings

Lesson: TypeAlias = tuple[str, tuple[int, ...], float]
"""A trial of which a controller learns: its task, the draws of its architecture, and its reward."""


@dataclass(frozen=True)
class Lessons:
    """Lessons that a search taught its controller, in order.

    Args:
        seed: Seed of its controller.
        decisions: Decisions that the controller made, as texts.
        batches: Lessons of each batch that has ended and has any.
    """

    seed: int
    decisions: tuple[str, ...]
    batches: tuple[tuple[Lesson, ...], ...]


@dataclass(frozen=True, kw_only=True)
class TransferNeuralAutoML(RewardSettings):
    """Draw architectures for several tasks from one controller, which knows each task by an embedding.

    The input of the controller, an LSTM, is the embedding of its last choice joined by that of the task. A
    linear map leads from the input around the LSTM. Each batch of trials is for one task, drawn uniformly.
    After it the controller learns from the advantages A = (R - m) / s, where m and s are moving averages of
    the rewards of that task, including R and corrected for their beginning at 0. Where s is 0, A is 0.

    A task is a value of the decision `task`, which may belong to the evaluator. With earlier searches as
    `known` the controller first learns what theirs did, from their ledgers. Their tasks keep their
    embeddings, new ones get random ones, and everything is trained further. Scores of different tasks do not
    compare: look at those of one, `[t for t in history.ranked() if t.arch["task"] == "digits"]`.

    Not checked against the authors' code, of which none is public: what is said above is after the paper, all
    numbers are ours. With several objectives the first decides.

    Args:
        task: Label of the decision on the task; in a space without it, the name of its one task.
        known: Histories of earlier searches with this strategy over the same decisions, the oldest first;
            a search that itself had known ones comes after them.
        update: `Reinforce()` or `PPO()`.
        batch: Number of trials after which the controller learns.
        learning_rate: Adam's learning rate.
        hidden: Size of the LSTM.
        embedding: Size of the embedding of a task.
        decay: Decay of the moving averages.
        reward: Reward from a score, for which more is better.
        reward_for_invalid: Reward of trials that failed, gave NaN or broke a limit; None learns nothing from
            them.

    Source: Wong et al. 2018, arXiv:1803.02780.
    """

    task: str = "task"
    known: Sequence[History | Lessons] = ()
    update: PPO | Reinforce = field(default_factory=Reinforce)
    batch: int = 10
    hidden: int = 100
    embedding: int = 25
    decay: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        require_all(require_integer, self, "hidden", "embedding", least=1)
        require_number("decay", self.decay, least=0, below=1)
        if isinstance(self.known, History):
            raise SpaceError("known is a history; expected a sequence of histories: known=[history].")
        known = tuple(self._lessons(each) if isinstance(each, History) else each for each in self.known)
        object.__setattr__(self, "known", known)

    def _lessons(self, history: History) -> Lessons:
        """Return what the controller of another search learnt from."""
        if not len(history) or not {"controller", "task"} <= history[0].note.keys():
            raise SpaceError("known holds a history without trials of TransferNeuralAutoML.")
        reader = _Reader(self)
        reader.learn(history)
        decisions = decisions_without(history.space, self.task)
        return Lessons(int(history[0].note["controller"]), decisions, tuple(reader.batches))

    def start(self, space: ModelSpace) -> Proposer:
        """Begin a search.

        Raises:
            SpaceError: a known search made other decisions.
        """
        own = decisions_without(space.decision_space, self.task)
        for lessons in self.known:
            assert isinstance(lessons, Lessons)
            differing = sorted(set(own) ^ set(lessons.decisions))
            if differing:
                raise SpaceError(
                    f"a known search and {type(space).__name__} differ in these decisions: "
                    f"{', '.join(differing)}. A controller is transferred between equal ones."
                )
        return ControllerSearch(partial(_Policy, self))


def decisions_without(space: DecisionSpace, task: str) -> tuple[str, ...]:
    """Return the decisions of a space as texts, in order, without that on the task."""
    return tuple(str(decision) for label, decision in space.by_label.items() if label != task)


class _Policy(Policy):
    """A controller that has learnt from earlier searches.

    Args:
        settings: Settings of the strategy.
        space: Decisions to make.
        seed: Seed of this search.
    """

    def __init__(self, settings: TransferNeuralAutoML, space: DecisionSpace, seed: int) -> None:
        super().__init__(settings)
        self.settings = settings
        self.space = space
        self.seed = seed
        decision = space.by_label.get(settings.task)
        self.tasks = [settings.task] if decision is None else list(decision.values())
        known = [lessons for lessons in settings.known if isinstance(lessons, Lessons)]
        self.controller = decision_controller(
            space,
            settings.hidden,
            torch_generator(known[0].seed if known else seed),
            context=settings.embedding,
            without=(settings.task,),
        )
        self.embeddings: dict[str, nn.Parameter] = {}
        self.statistics: dict[str, TaskStatistics] = {}
        for lessons in known:
            self._begin((task for batch in lessons.batches for task, _, _ in batch), lessons.seed)
            for batch in lessons.batches:
                self._study(batch)
        self._begin(map(str, self.tasks), seed)

    def _begin(self, tasks: Iterable[str], seed: int) -> None:
        """Give each new task a random embedding, which depends on its name and the seed alone."""
        for task in dict.fromkeys(tasks):
            if task not in self.embeddings:
                generator = torch_generator(seed, *task.encode())
                drawn = torch.empty(self.settings.embedding).uniform_(-0.1, 0.1, generator=generator)
                self.embeddings[task] = nn.Parameter(drawn)
                self.statistics[task] = TaskStatistics(self.settings.decay)
        parameters = [*self.controller.parameters(), *self.embeddings.values()]
        self.optimizer = torch.optim.Adam(parameters, lr=self.settings.learning_rate)

    def task_of(self, batch: int) -> Any:
        """Return the task of a batch, drawn uniformly."""
        drawn = torch.randint(len(self.tasks), (), generator=torch_generator(self.seed, batch))
        return self.tasks[int(drawn)]

    def propose(self, number: int, rng: np.random.Generator) -> tuple[Architecture, dict[str, Any]]:
        """See `Policy`; the trials of a batch are for one task."""
        task = self.task_of(number // self.settings.batch)
        decided = {self.settings.task: task} if self.settings.task in self.space.by_label else {}
        embedding, generator = self.embeddings[str(task)], torch_generator_from(rng)
        arch, draws = drawn_fit(self.controller, self.space, generator, embedding, decided)
        return arch, {"task": str(task), "draws": draws}

    def learn_from(self, trials: Sequence[Trial], rewards: Sequence[float]) -> None:
        """See `Learner`."""
        self._study(lessons_of(trials, rewards))

    def _study(self, batch: Sequence[Lesson]) -> None:
        """Take the steps of one batch."""
        advantages = torch.tensor([self.statistics[task].advantage(reward) for task, _, reward in batch])
        with torch.no_grad():
            old = self._log_p(batch)
        for _ in range(self.settings.update.steps):
            self.optimizer.zero_grad()
            torch.autograd.backward(self.settings.update.loss(self._log_p(batch), old, advantages))
            self.optimizer.step()

    def _log_p(self, batch: Sequence[Lesson]) -> Tensor:
        samples = (
            self.controller.sample(draws=draws, context=self.embeddings[task]) for task, draws, _ in batch
        )
        return torch.stack([sample.log_prob for sample in samples])  # (batch,)


class _Reader(Learner):
    """Collects the batches that a search has learnt from."""

    def __init__(self, settings: TransferNeuralAutoML) -> None:
        super().__init__(settings)
        self.batches: list[tuple[Lesson, ...]] = []

    def learn_from(self, trials: Sequence[Trial], rewards: Sequence[float]) -> None:
        """See `Learner`."""
        self.batches.append(lessons_of(trials, rewards))


def lessons_of(trials: Iterable[Trial], rewards: Iterable[float]) -> tuple[Lesson, ...]:
    """Return the lessons of a batch."""
    return tuple(
        (trial.note["task"], tuple(trial.note["draws"]), reward)
        for trial, reward in zip(trials, rewards, strict=True)
    )


class TaskStatistics:
    """Moving average and deviation of the rewards of a task, corrected for their beginning at 0.

    Args:
        decay: Share d of an average that each reward leaves.

    Attributes:
        mean: The average m of the rewards.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.mean = 0.0
        self._variance = 0.0
        self._weight = 0.0

    @property
    def deviation(self) -> float:
        """The deviation s of the rewards."""
        return math.sqrt(self._variance)

    def advantage(self, reward: float) -> float:
        """Add a reward R; return (R - m) / s, or 0 where s is 0."""
        self._weight = self.decay * self._weight + 1 - self.decay
        share = (1 - self.decay) / self._weight
        step = reward - self.mean
        self.mean += share * step  # the first reward has a share of 1
        self._variance = (1 - share) * (self._variance + share * step**2)
        return (reward - self.mean) / self.deviation if self._variance else 0.0
