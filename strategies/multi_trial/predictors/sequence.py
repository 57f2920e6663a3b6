"""A predictor that reads architectures as tokens, and writes better ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from spacelang import ModelSpace
from spacelang.language import Architecture
from spacelang.randomness import torch_seeded_from

from .predictor import Array
from .sequence_networks import NAONetwork, SequenceNetwork, moved
from .tokens import TokenEncoding, token_encoding

Scaling: TypeAlias = Callable[[Array], tuple[Array, float, float]]
"""Function from values to (values - shift) / scale, shift and scale, as `standardised` and `min_max` are."""


def min_max(values: Array) -> tuple[Array, float, float]:
    """Return values brought to [0, 1], and the numbers that restore them.

    Args:
        values: Values, (n,).

    Returns:
        (values - lowest) / range, lowest, range; the range of equal values is 1.
    """
    lowest, width = float(np.min(values)), float(np.ptp(values)) or 1.0
    return (np.asarray(values) - lowest) / width, lowest, width


def nasbench101_scaling(values: Array) -> tuple[Array, float, float]:
    """Return validation accuracies of NAS-Bench-101, in [0, 1], standardised by those of the whole benchmark.

    Source: the authors' code of SemiNAS, arXiv:2002.10389.
    """
    mean, std = 0.908192301, 0.023961
    return (np.asarray(values) - mean) / std, mean, std


class SequencePredictor:
    """Encoder, predictor and decoder of architectures written as tokens; a `Predictor` that can also write.

    Args:
        space: Space whose architectures are predicted.
        network: Function from vocabulary and group of a `TokenEncoding` to a network.
        tokens: Function that makes the `TokenEncoding` of the space.
        scaling: Brings values to the scale on which the network learns.
        copies: Copies of each architecture in an epoch beside itself, written in another way where there is
            one.
        epochs: Passes over the data of `fit`.
        batch_size: Architectures of a step of Adam.
        learning_rate, weight_decay: Adam's settings.
        clip: Largest norm of a step's gradient.
        trade_off: Share of the value's error in the loss; the rest is that of the tokens.

    Source: Luo et al. 2018, arXiv:1808.07233; settings from the authors' code.
    """

    def __init__(
        self,
        space: ModelSpace,
        *,
        network: Callable[[int, int], SequenceNetwork] = NAONetwork,
        tokens: Callable[[ModelSpace], TokenEncoding] = token_encoding,
        scaling: Scaling = min_max,
        copies: int = 9,
        epochs: int = 100,
        batch_size: int = 100,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        clip: float = 5.0,
        trade_off: float = 0.8,
    ) -> None:
        self.tokens = tokens(space)
        self.scaling = scaling
        self.copies = copies
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.clip = clip
        self.trade_off = trade_off
        self._make = network

    def fit(self, archs: Sequence[Architecture], values: Array, rng: np.random.Generator) -> None:
        """See `Predictor`."""
        self.begin(rng)
        self.learn(archs, values, rng)

    def begin(self, rng: np.random.Generator) -> None:
        """Forget everything: draw first weights."""
        with torch_seeded_from(rng):
            self.network = self._make(self.tokens.vocabulary, self.tokens.group)

    def learn(
        self,
        archs: Sequence[Architecture],
        values: Array,
        rng: np.random.Generator,
        *,
        guessed: tuple[Sequence[Architecture], Array] = ((), np.zeros(0)),
        epochs: int | None = None,
    ) -> None:
        """Continue to learn with a new optimiser.

        Args:
            archs: Measured architectures, at least one.
            values: Finite value of each, (n,).
            rng: Generator for every random draw.
            guessed: Further architectures and their predicted values, (m,), which are not copied.
            epochs: Passes over the data; None for `self.epochs`.
        """
        scaled, self._shift, self._scale = self.scaling(np.asarray(values, dtype=float))
        rows = [self.tokens.encode(arch) for arch in archs]
        copies = [self.tokens.rewritten(row, rng) for _ in range(self.copies) for row in rows]
        unsure = [self.tokens.encode(arch) for arch in guessed[0]]
        x = torch.tensor([*rows, *copies, *unsure])
        known = np.tile(scaled, 1 + self.copies)
        y = np.concatenate([known, (np.asarray(guessed[1]) - self._shift) / self._scale])
        self._train(x, torch.tensor(y, dtype=torch.float32), self.epochs if epochs is None else epochs, rng)

    def _train(self, x: Tensor, y: Tensor, epochs: int, rng: np.random.Generator) -> None:
        network = self.network.train()
        optimizer = torch.optim.Adam(
            network.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
        )
        with torch_seeded_from(rng), torch.enable_grad():
            for _ in range(epochs):
                for rows in torch.split(torch.randperm(len(x)), self.batch_size):
                    optimizer.zero_grad()
                    network.loss(x[rows], y[rows], self.trade_off).backward()  # type: ignore[no-untyped-call]
                    nn.utils.clip_grad_norm_(network.parameters(), self.clip)
                    optimizer.step()
        network.eval()

    def predict(self, archs: Sequence[Architecture]) -> tuple[Array, Array]:
        """See `Predictor`; one network has no standard deviation."""
        with torch.no_grad():
            values = self.network.values(self._outputs(archs)).double().numpy()
        return self._shift + self._scale * values, np.zeros(len(archs))

    def improved(self, archs: Sequence[Architecture], steps: int) -> Iterator[Architecture]:
        """Yield architectures that are decoded from points with higher predicted values.

        The points are those of given architectures, moved along the gradient of the value by a step of 1,
        then by one of 2, and so on. Tokens that make no architecture of the space are left out.

        Args:
            archs: Architectures to begin at.
            steps: Longest step.
        """
        outputs = self._outputs(archs)
        gradient = self.network.gradient(outputs)
        for step in range(1, steps + 1):
            with torch.no_grad():
                written = self.network.written(moved(outputs, gradient, step), self.tokens.legal)
            for tokens in written.tolist():
                arch = self.tokens.decode(tokens)
                if arch is not None:
                    yield arch

    def _outputs(self, archs: Sequence[Architecture]) -> Tensor:
        with torch.no_grad():
            return self.network.outputs(torch.tensor([self.tokens.encode(arch) for arch in archs]))


def pairwise_accuracy(values: Sequence[float], predicted: Sequence[float]) -> float:
    """Return the share of pairs, in order of the first list, on whose order two lists of values agree.

    A pair (i, j) with i < j counts where both lists have i >= j, or both i < j.

    >>> pairwise_accuracy([1, 1, 2], [0.3, 0.4, 0.9])
    0.6666666666666666

    Source: the authors' code of NAO, arXiv:1808.07233.
    """
    pairs = list(itertools.combinations(range(len(values)), 2))
    agreed = sum((values[i] >= values[j]) == (predicted[i] >= predicted[j]) for i, j in pairs)
    return agreed / len(pairs)
