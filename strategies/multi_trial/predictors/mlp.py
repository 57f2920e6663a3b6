"""An ensemble of multilayer perceptrons."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from spacelang.language import Architecture
from spacelang.randomness import torch_generator_from

from .predictor import Array, Encoding, standardised


class MLPEnsemble:
    """Networks that differ in their first weights; their disagreement is the uncertainty.

    All are trained at once, on the mean absolute error of standardised values.

    Args:
        encode: Encoding, such as `path_encoding(space)` or `space.encode`.
        members: Number of networks.
        depth: Number of hidden layers.
        width: Units of each.
        epochs: Passes over the data.
        batch_size: Architectures of a step of Adam; each network shuffles them by itself. None for all.
        learning_rate, betas: Adam's settings.

    Source: White et al. 2021, arXiv:1910.11858, section 4.
    """

    def __init__(
        self,
        encode: Encoding,
        *,
        members: int = 5,
        depth: int = 10,
        width: int = 20,
        epochs: int = 200,
        batch_size: int | None = None,
        learning_rate: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        self.encode = encode
        self.members = members
        self.depth = depth
        self.width = width
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.betas = betas

    def fit(self, archs: Sequence[Architecture], values: Array, rng: np.random.Generator) -> None:
        """See `Predictor`."""
        x = self._encoded(archs)
        targets, self._mean, self._scale = standardised(values)
        y = torch.tensor(targets, dtype=torch.float32)
        generator = torch_generator_from(rng)
        widths = [x.shape[1], *[self.width] * self.depth, 1]
        self._layers = [
            _linear(self.members, fan_in, fan_out, generator)
            for fan_in, fan_out in itertools.pairwise(widths)
        ]
        parameters = [tensor for layer in self._layers for tensor in layer]
        optimizer = torch.optim.Adam(parameters, lr=self.learning_rate, betas=self.betas)
        with torch.enable_grad():
            for _ in range(self.epochs):
                for rows in self._batches(len(x), generator):
                    optimizer.zero_grad()
                    (self._forward(x[rows]) - y[rows]).abs().mean(1).sum().backward()  # type: ignore[no-untyped-call]
                    optimizer.step()

    def predict(self, archs: Sequence[Architecture]) -> tuple[Array, Array]:
        """See `Predictor`; the standard deviation is that of the members."""
        with torch.no_grad():
            x = self._encoded(archs)
            predictions = self._forward(x.expand(self.members, *x.shape)).double().numpy()
        return mean_and_std(self._mean + self._scale * predictions)

    def _batches(self, count: int, generator: torch.Generator) -> Sequence[Tensor]:
        """Return the rows of each step of an epoch, (members, batch size)."""
        if self.batch_size is None:
            return [torch.arange(count).expand(self.members, count)]
        orders = torch.rand(self.members, count, generator=generator).argsort(dim=1)
        return torch.split(orders, self.batch_size, dim=1)

    def _encoded(self, archs: Sequence[Architecture]) -> Tensor:
        return torch.tensor(np.stack([self.encode(arch) for arch in archs]), dtype=torch.float32)

    def _forward(self, x: Tensor) -> Tensor:
        """Return the prediction of each member, (members, n), from (members, n, features)."""
        hidden = x
        for weight, bias in self._layers[:-1]:
            hidden = torch.baddbmm(bias, hidden, weight).relu()
        weight, bias = self._layers[-1]
        return torch.baddbmm(bias, hidden, weight).squeeze(2)


def _linear(members: int, fan_in: int, fan_out: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return weights (members, in, out), drawn as He et al. do for ReLUs, and biases (members, 1, out)."""
    weight = torch.randn(members, fan_in, fan_out, generator=generator) * (2 / fan_in) ** 0.5
    return weight.requires_grad_(), torch.zeros(members, 1, fan_out, requires_grad=True)


def mean_and_std(predictions: Array) -> tuple[Array, Array]:
    """Return mean and population standard deviation over the members of an ensemble, (n,) and (n,).

    Args:
        predictions: Predictions, (members, n).
    """
    return predictions.mean(axis=0), predictions.std(axis=0)
