"""EAS: a controller learns how to grow a trained network wider and deeper."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spacelang import ModelSpace, SpaceError
from spacelang.errors import quoted, require_all, require_integer, require_number
from spacelang.language import Architecture
from spacelang.models import BlockOptions, Blocks, Layer, LayeredSpace
from spacelang.randomness import torch_generator, torch_generator_from
from spacelang.trials import Exhausted, History, Proposal, Proposer, Trial

from .rewards import Learner, RewardSettings
from .stateless import drawn_once
from .wrappers.screening import without_repetitions

POOL = "pool"
"""The token between two blocks."""


def tangent(accuracy: float) -> float:
    """Return tan(accuracy * pi / 2), which tells good networks further apart; from 0.999 on as at 0.999."""
    if not 0 <= accuracy <= 1:
        raise SpaceError(f"EAS rewards accuracies from 0 to 1; got {accuracy}. Pass EAS(reward=...).")
    return math.tan(min(accuracy, 0.999) * math.pi / 2)


@dataclass(frozen=True, kw_only=True)
class EAS(RewardSettings):
    """Efficient architecture search: grow networks from a trained one by function-preserving operations.

    The first trial trains a first network. Each later one is that network after `wider_actions` decisions of
    which layers get the next width, and `deeper_actions` decisions of where a layer is inserted. With
    `Experiment(..., inherit="parent")` it begins with the weights of the first one, by Net2Net, so that few
    epochs suffice. A bidirectional LSTM encodes the layers again before each decision.

    After each batch the controller learns by REINFORCE, with the gradient of the mean of
    log pi * (R - b) + entropy_weight * entropy, where R = tan(accuracy * pi / 2). Before that the baseline b
    goes `baseline_step` of the way to the mean of R.

    Not from the authors' code are: 0.999 as the limit of the accuracy; the inputs of the deeper actor, a
    learned start and the embeddings of its decisions; blocks that have all their layers are not drawn.

    No network is trained twice: the controller learns from the known value of one that is drawn again, as in
    the authors' code. The search ends after 1,000 such draws in a row.

    Args:
        wider_actions: Decisions on widths for each network.
        deeper_actions: Decisions on a further layer for each network.
        start_from: Architecture of the first network; None for the default of the space.
        stage: Number of grown networks, repetitions included, after which the best so far takes the place of
            the first; None for never.
        batch: Networks of an episode, repetitions included, after which the controller learns.
        learning_rate: Adam's learning rate.
        baseline_step: Share of the way to the mean reward that the baseline goes.
        entropy_weight: Weight of the bonus for undecided controllers.
        embedding: Size of the embedding of a layer.
        hidden: Size of the LSTM in each direction.
        reward: Reward from a score, for which more is better.
        reward_for_invalid: Reward of trials that failed, gave NaN or broke a limit; None learns nothing from
            them.

    Source: Cai et al. 2018, arXiv:1707.04873; settings from the authors' code.
    """

    wider_actions: int = 4
    deeper_actions: int = 5
    start_from: Mapping[str, Any] | None = None
    stage: int | None = None
    batch: int = 10
    learning_rate: float = 2e-3
    baseline_step: float = 0.95
    entropy_weight: float = 1e-5
    embedding: int = 16
    hidden: int = 50
    reward: Callable[[float], float] | None = tangent

    def __post_init__(self) -> None:
        super().__post_init__()
        require_all(require_integer, self, "wider_actions", "deeper_actions", least=0)
        require_all(require_integer, self, "embedding", "hidden", least=1)
        require_integer("stage", self.stage, least=1, optional=True)
        require_number("baseline_step", self.baseline_step, above=0, most=1)
        require_number("entropy_weight", self.entropy_weight, least=0)

    def start(self, space: ModelSpace) -> Proposer:
        """Begin a search.

        Raises:
            SpaceError: the space is not a `LayeredSpace`, or decides more than layers.
        """
        name = type(space).__name__
        if not isinstance(space, LayeredSpace):
            raise SpaceError(
                f"EAS grows networks of layers in a row; {name} is not a LayeredSpace; hub.PlainCNN is one."
            )
        first = space.canonical(self.start_from or space.default())
        others = first.keys() - space.architecture_with(space.blocks_of(first)).keys()
        if others:
            raise SpaceError(f"EAS decides layers alone; {name} also decides {quoted(sorted(others))}.")
        return without_repetitions(partial(_Search, self, space, first))


class _Search:
    """A search whose notes say from which trial a network was grown, and by which draws."""

    def __init__(self, settings: EAS, space: LayeredSpace, first: Architecture) -> None:
        self.settings = settings
        self.space = space
        self.first = first
        self._policy: _Policy | None = None

    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        """See `Proposer`."""
        seed = drawn_once("controller", history, rng)
        own = [number for number in range(len(history)) if "controller" in history[number].note]
        if not own:
            return Proposal(self.first, note={"controller": seed})
        parent = self._parent(history, own)
        if self._policy is None or (self._policy.seed, self._policy.first) != (seed, own[0]):
            self._policy = _Policy(self.settings, self.space, seed, own[0])
        self._policy.learn(history)
        grown = self._policy.draw(history[parent].arch, torch_generator_from(rng))
        note = {"controller": seed, "parent": parent, "draws": grown.draws}
        return Proposal(self.space.architecture_with(grown.blocks), note=note)

    def _parent(self, history: History, own: Sequence[int]) -> int:
        """Return the trial whose network is grown: the first one, or the best when a stage began."""
        place = len(own) - 1  # among the grown networks
        begin = place - place % self.settings.stage if self.settings.stage else 0
        if begin < place:
            return int(history[own[1 + begin]].note["parent"])
        if begin and history.best_trial is not None:
            return history.best_trial.number
        if history[own[0]].state != "done":
            raise Exhausted(
                f"the network to grow is that of trial {own[0]}, which is {history[own[0]].state}"
            )
        return own[0]


class _Policy(Learner):
    """A controller, its optimiser and its baseline.

    Args:
        settings: Settings of the strategy.
        space: Space that is searched.
        seed: Seeds the first weights.
        first: Number of the trial of the first network.
    """

    def __init__(self, settings: EAS, space: LayeredSpace, seed: int, first: int) -> None:
        super().__init__(settings, first + 1)
        self.settings = settings
        self.space = space
        self.seed = seed
        self.first = first
        self.baseline = 0.0
        sizes = settings.embedding, settings.hidden
        self.controller = GrowthController(space.options, *sizes, torch_generator(seed))
        self.optimizer = torch.optim.Adam(self.controller.parameters(), lr=settings.learning_rate)

    def draw(
        self, arch: Architecture, generator: torch.Generator | None = None, draws: Sequence[int] = ()
    ) -> Growth:
        """Grow a network; by the draws that are given, if there are any."""
        walk = Growth(self.controller, self.space.blocks_of(arch), generator, draws)
        for _ in range(self.settings.wider_actions):
            walk.widen()
        for _ in range(self.settings.deeper_actions):
            walk.deepen()
        return walk

    def learn(self, history: History) -> None:
        """See `Learner`."""
        self._history = history
        super().learn(history)

    def learn_from(self, trials: Sequence[Trial], rewards: Sequence[float]) -> None:
        """See `Learner`."""
        self.baseline, advantages = advantages_of(rewards, self.baseline, self.settings.baseline_step)
        loss = torch.zeros(())
        for trial, advantage in zip(trials, advantages, strict=True):
            parent = self._history[trial.note["parent"]].arch
            grown = self.draw(parent, draws=trial.note["draws"])
            loss = loss - (grown.log_prob * advantage + self.settings.entropy_weight * grown.entropy)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss / len(trials))
        self.optimizer.step()


def advantages_of(rewards: Sequence[float], baseline: float, step: float) -> tuple[float, list[float]]:
    """Return the baseline, moved a share `step` of the way to the mean reward, and the rewards above it."""
    baseline += step * (sum(rewards) / len(rewards) - baseline)
    return baseline, [reward - baseline for reward in rewards]


class GrowthController(nn.Module):
    """The encoder of a network's layers, the wider actor and the deeper actor.

    Args:
        options: Options of each block of the space.
        embedding: Size of the embedding of a layer.
        hidden: Size h of the encoder in each direction.
        generator: Draws the first weights, uniformly in (-0.1, 0.1).
    """

    def __init__(
        self, options: Sequence[BlockOptions], embedding: int, hidden: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.options = tuple(options)
        layers = [Layer(width, kernel) for o in options for width in o.widths for kernel in o.kernels]
        tokens: list[Layer | str] = [POOL, *layers]
        self.tokens = {token: place for place, token in enumerate(dict.fromkeys(tokens))}
        self.kernels = list(dict.fromkeys(k for o in options for k in o.kernels if k is not None))
        most = max(o.most for o in options)
        size = 2 * hidden
        self.embedding = nn.Embedding(len(self.tokens), embedding)
        self.encoder = nn.LSTM(embedding, hidden, bidirectional=True)
        self.wider = nn.Linear(size, 1)
        self.deeper = nn.LSTMCell(size, size)
        self.first = nn.Parameter(torch.empty(1, size))
        self.block_embedding, self.layer_embedding = (
            nn.Embedding(len(options), size),
            nn.Embedding(most, size),
        )
        self.block, self.layer = nn.Linear(size, len(options)), nn.Linear(size, most)
        self.kernel = nn.Linear(size, max(1, len(self.kernels)))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-0.1, 0.1, generator=generator)

    def sequence(self, blocks: Blocks) -> list[Layer | str]:
        """Return the layers with a pool between blocks."""
        sequence: list[Layer | str] = []
        for block in blocks:
            sequence += [*block, POOL]
        return sequence[:-1]

    def encode(self, blocks: Blocks) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the encoder's outputs for the layers, (layers, 2 h), and its last state, two of (1, 2 h)."""
        sequence = self.sequence(blocks)
        embedded = self.embedding(torch.tensor([self.tokens[token] for token in sequence]))
        outputs, (h, c) = self.encoder(embedded)
        is_layer = [token != POOL for token in sequence]
        return outputs[is_layer], (h.reshape(1, -1), c.reshape(1, -1))


class Growth:
    """A network that the controller lets grow, with the probability of how it did.

    Args:
        controller: The controller.
        blocks: Layers at the beginning.
        generator: Generator for the draws.
        given: Draws to repeat instead.

    Attributes:
        blocks: Layers now.
        log_prob: Log probability of all draws, a scalar.
        entropy: Sum of their entropies, a scalar.
        draws: The draws: 0 or 1 for each layer that could be wider; block, place and kernel of new layers.
    """

    def __init__(
        self,
        controller: GrowthController,
        blocks: Blocks,
        generator: torch.Generator | None = None,
        given: Sequence[int] = (),
    ) -> None:
        self.controller = controller
        self.blocks = blocks
        self.generator = generator
        self.log_prob = torch.zeros(())
        self.entropy = torch.zeros(())
        self.draws: list[int] = []
        self._given = iter(given) if given else None

    def widen(self) -> None:
        """Decide for every layer that is not at its largest width whether it gets the next one."""
        outputs, _ = self.controller.encode(self.blocks)
        logits = iter(self.controller.wider(outputs)[:, 0])
        grown = []
        for block, options in zip(self.blocks, self.controller.options, strict=True):
            layers = []
            for layer, logit in zip(block, logits, strict=False):
                further = [width for width in options.widths if width > layer.width]
                is_wider = further and self._draw(torch.stack([-logit, logit]) / 2)  # sigmoid(logit)
                layers.append(Layer(further[0], layer.kernel) if is_wider else layer)
            grown.append(tuple(layers))
        self.blocks = tuple(grown)

    def deepen(self) -> None:
        """Decide the block, the place and the kernel of a further layer, where a block has room for one."""
        net, options = self.controller, self.controller.options
        open_blocks = [len(block) < o.most for block, o in zip(self.blocks, options, strict=True)]
        if not any(open_blocks):
            return
        _, state = net.encode(self.blocks)
        state = net.deeper(net.first, state)
        index = self._draw(net.block(state[0])[0], open_blocks)
        block, kernels = self.blocks[index], options[index].kernels
        state = net.deeper(net.block_embedding.weight[index : index + 1], state)
        logits = net.layer(state[0])[0]
        place = self._draw(logits, [k < len(block) for k in range(len(logits))])
        kernel: int | None = None
        if kernels != (None,):
            state = net.deeper(net.layer_embedding.weight[place : place + 1], state)
            offered = [kernel in kernels for kernel in net.kernels]
            kernel = net.kernels[self._draw(net.kernel(state[0])[0], offered)]
        layer = Layer(block[place].width, kernel)
        block = (*block[: place + 1], layer, *block[place + 1 :])
        self.blocks = (*self.blocks[:index], block, *self.blocks[index + 1 :])

    def _draw(self, logits: Tensor, offered: Sequence[bool] | None = None) -> int:
        """Draw one of n candidates with probabilities softmax(logits) among those that are offered, (n,)."""
        candidates = [k for k in range(len(logits)) if offered is None or offered[k]]
        log_p = logits[candidates].log_softmax(dim=0)
        p = log_p.exp()
        if self._given is None:
            drawn = candidates[int(torch.multinomial(p.detach(), 1, generator=self.generator))]
        else:
            drawn = next(self._given)
        self.draws.append(drawn)
        self.log_prob = self.log_prob + log_p[candidates.index(drawn)]
        self.entropy = self.entropy + torch.special.entr(p).sum()
        return drawn
