"""An ensemble of LSTMs that read cells of any number of nodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from spacelang import ModelSpace, SpaceError
from spacelang.language import Architecture
from spacelang.randomness import torch_seeded_from

from .encoding import cells_by_label
from .mlp import mean_and_std
from .predictor import Array

_LOW, _HIGH = 0.25, 0.75  # outputs for the lowest and the highest value, with room on both sides


class CellLSTM:
    """Networks that read a cell slot by slot, node by node; their disagreement is the uncertainty.

    Each input and each operation is a token; from the state after the last a sigmoid gives the value. It
    learns by the mean absolute error, each step on all data. Cells with fewer nodes than the space's, whose
    architectures lack the labels of the others, are read as well. Decisions outside cells are not read.

    Args:
        space: Space whose architectures are predicted.
        labels: Labels of the cells to read, one after another; all by default.
        members: Number of networks, which differ in their first weights.
        width: Width of the embedding and of the LSTM.
        epochs: Steps of Adam.
        learning_rate: Adam's learning rate.

    Raises:
        SpaceError: the space has no cell of a label, or none at all.

    Source: Liu et al. 2018, arXiv:1712.00559, section 4.2.
    """

    def __init__(
        self,
        space: ModelSpace,
        labels: Sequence[str] | None = None,
        *,
        members: int = 5,
        width: int = 100,
        epochs: int = 50,
        learning_rate: float = 0.01,
    ) -> None:
        cells = cells_by_label(space)
        labels = list(cells) if labels is None else labels
        if not labels or not set(labels) <= cells.keys():
            raise SpaceError(
                f"CellLSTM reads the cells {list(labels)}; {type(space).__name__} has {list(cells)}."
            )
        topologies = [cells[label].topology for label in labels]
        self._slots = [slot for t in topologies for node in t.nodes for slot in t.slots(node)]
        self._numbers: dict[tuple[bool, object], int] = {}  # of tokens: (is it an operation, value)
        for op, source in self._slots:
            for token in [(False, value) for value in source.candidates] + [(True, o) for o in op.candidates]:
                self._numbers.setdefault(token, len(self._numbers))
        self.members = members
        self.width = width
        self.epochs = epochs
        self.learning_rate = learning_rate

    def fit(self, archs: Sequence[Architecture], values: Array, rng: np.random.Generator) -> None:
        """See `Predictor`."""
        tokens, lengths = self._tokens(archs)
        self._lowest, self._range = float(np.min(values)), float(np.ptp(values)) or 1.0
        targets = _LOW + (_HIGH - _LOW) * (np.asarray(values) - self._lowest) / self._range
        y = torch.tensor(targets, dtype=torch.float32)
        with torch_seeded_from(rng):
            self._networks = [_Network(len(self._numbers), self.width) for _ in range(self.members)]
        for network in self._networks:
            self._train(network, tokens, lengths, y)

    def _train(self, network: nn.Module, tokens: Tensor, lengths: Tensor, y: Tensor) -> None:
        optimizer = torch.optim.Adam(network.parameters(), lr=self.learning_rate)
        with torch.enable_grad():
            for _ in range(self.epochs):
                optimizer.zero_grad()
                (network(tokens, lengths) - y).abs().mean().backward()
                optimizer.step()

    def predict(self, archs: Sequence[Architecture]) -> tuple[Array, Array]:
        """See `Predictor`; the standard deviation is that of the members."""
        tokens, lengths = self._tokens(archs)
        with torch.no_grad():
            outputs = torch.stack([network(tokens, lengths) for network in self._networks])
        shares = (outputs.double().numpy() - _LOW) / (_HIGH - _LOW)
        return mean_and_std(self._lowest + self._range * shares)

    def _tokens(self, archs: Sequence[Architecture]) -> tuple[Tensor, Tensor]:
        """Return numbers of tokens, (n, longest), filled up with zeros, and how many each has, (n,)."""
        read = [
            [
                self._numbers[token]
                for op, source in self._slots
                if op.label in arch
                for token in ((False, arch[source.label]), (True, arch[op.label]))
            ]
            for arch in archs
        ]
        lengths = torch.tensor([len(row) for row in read])
        tokens = torch.zeros(len(read), int(lengths.max()), dtype=torch.long)
        for row, numbers in zip(tokens, read, strict=True):
            row[: len(numbers)] = torch.tensor(numbers)
        return tokens, lengths


class _Network(nn.Module):
    """An LSTM that reads each beginning once: all extensions of one cell share nearly all of their tokens."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.cell = nn.LSTMCell(width, width)
        self.last = nn.Linear(width, 1)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        count = self.embedding.num_embeddings
        begun = torch.zeros(len(tokens), dtype=torch.long)  # state of each row after the tokens read
        hidden = memory = torch.zeros(1, self.cell.hidden_size)
        ends = torch.zeros(len(tokens), self.cell.hidden_size)
        for place in range(tokens.shape[1]):
            left = lengths > place
            pairs, begun[left] = torch.unique(begun[left] * count + tokens[left, place], return_inverse=True)
            before, token = pairs // count, pairs % count
            hidden, memory = self.cell(self.embedding(token), (hidden[before], memory[before]))
            ended = lengths == place + 1
            ends[ended] = hidden[begun[ended]]
        outputs: Tensor = self.last(ends).squeeze(1).sigmoid()
        return outputs
