"""A language model of one searched recurrent cell."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spacelang.errors import require_all, require_integer, require_number

from ..published import PublishedSpace
from .rnn_cell import ACTIVATIONS, RANGE, Masks, RNNCell

_FOREIGN_NODE = re.compile(r"rnns\.0\._Ws\.(\d+)")


class RecurrentLM(PublishedSpace):
    """A language model of one recurrent cell: embedding, cell, and an output layer that shares its weights.

    The defaults are those with which DARTS evaluates a cell on Penn Treebank; it searches with `width=300`
    and `embedding_dropout=0.0`. The evaluator `Language` trains it on the windows of a text.

    Args:
        vocabulary: Number of words.
        width: Length of word vectors and of the hidden state.
        num_nodes, merge_op, activations, norm: See `RNNCell`.
        embedding_dropout: Probability that a word's vector is zero, wherever in the batch the word stands.
        input_dropout: Dropout of word vectors, one mask for all words of a sequence.
        cell_dropout: Dropout of the cell's input, one mask for all steps; added to that of word vectors.
        hidden_dropout: Dropout of hidden states and nodes before each projection, one mask for all steps.
        output_dropout: Dropout of the cell's outputs, one mask for all steps.

    Source: DARTS, arXiv:1806.09055, and the training code its authors published.
    """

    def __init__(
        self,
        vocabulary: int = 10_000,
        width: int = 850,
        *,
        num_nodes: int = 8,
        merge_op: Literal["all", "loose_end"] = "all",
        activations: Sequence[str] = tuple(ACTIVATIONS),
        norm: bool | None = None,
        embedding_dropout: float = 0.1,
        input_dropout: float = 0.2,
        cell_dropout: float = 0.75,
        hidden_dropout: float = 0.25,
        output_dropout: float = 0.75,
    ) -> None:
        super().__init__()
        for name, size in (("vocabulary", vocabulary), ("width", width)):
            require_integer(name, size, least=1)
        self.embedding_dropout = embedding_dropout
        self.input_dropout = input_dropout
        self.cell_dropout = cell_dropout
        self.hidden_dropout = hidden_dropout
        self.output_dropout = output_dropout
        rates = ("embedding", "input", "cell", "hidden", "output")
        require_all(require_number, self, *(f"{rate}_dropout" for rate in rates), least=0, below=1)
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.uniform_(self.embedding.weight, -RANGE, RANGE)
        self.rnn = RNNCell(width, width, num_nodes, merge_op=merge_op, activations=activations, norm=norm)
        # The output layer is this bias and the embedding's weight, which so has one owner.
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return logits of next words, (B, T, vocabulary), and the hidden state after each, (B, T, width).

        Args:
            tokens: Word numbers, (B, T).
            state: Hidden states of the text before, as an earlier call returned them; the last one counts.
                None for zeros.
        """
        words = self._locked(self._embedded(tokens), self.input_dropout)  # (B, T, width)
        hidden = torch.zeros_like(words[:, 0]) if state is None else state[:, -1]
        masks = self._masks(hidden)
        states = []
        for word in words.unbind(dim=1):
            hidden = self.rnn(word, hidden, masks)
            states.append(hidden)
        outputs = torch.stack(states, dim=1)
        logits = F.linear(self._locked(outputs, self.output_dropout), self.embedding.weight, self.bias)
        return logits, outputs

    def _embedded(self, tokens: Tensor) -> Tensor:
        weight = self.embedding.weight
        if self.training and self.embedding_dropout:
            weight = weight * _mask(weight[:, :1], self.embedding_dropout)
        return F.embedding(tokens, weight)

    def _locked(self, x: Tensor, p: float) -> Tensor:
        """Drop entries of vectors (B, T, D), the same at all times."""
        return x * _mask(x[:, :1], p) if self.training and p else x

    def _masks(self, hidden: Tensor) -> Masks | None:
        if not self.training or not (self.cell_dropout or self.hidden_dropout):
            return None
        return _mask(hidden, self.cell_dropout), _mask(hidden, self.hidden_dropout)

    @property
    def arguments(self) -> dict[str, Any]:
        """Return the constructor's arguments; for a fixed network with the `norm` that it was built with."""
        given = super().arguments
        return given if self.decisions else {**given, "norm": self.rnn.normalised}

    def converted_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a state dict of the original DARTS under the names of this network."""
        if "rnns.0._W0" not in weights:
            return dict(weights)
        names = {"encoder.weight": "embedding.weight", "decoder.bias": "bias"}
        converted = {names[name]: tensor for name, tensor in weights.items() if name in names}
        converted["rnn.first.weight"] = weights["rnns.0._W0"].T
        for name, tensor in weights.items():
            if node := _FOREIGN_NODE.fullmatch(name):
                converted[f"rnn.cell.frame.projection.{node[1]}.linear.weight"] = tensor.T
        return converted


def _mask(like: Tensor, p: float) -> Tensor:
    """Draw a mask of zeros, with probability p, and 1 / (1 - p), from torch's generator."""
    return torch.empty_like(like).bernoulli_(1 - p).div_(1 - p)
