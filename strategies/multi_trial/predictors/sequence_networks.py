"""Networks that turn tokens into points of a space, predict values there, and write tokens again."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SequenceNetwork(nn.Module):
    """An encoder, a predictor and a decoder of architectures.

    The encoder's outputs have length 1 at every step. Their mean, brought to length 1, is the embedding; from
    it the predictor makes a value, and the decoder, which also attends to the outputs, the tokens.

    Args:
        encoder: Module that maps tokens, (n, length), to outputs, (n, steps, hidden).
        value: Module that maps embeddings, (n, hidden), to values, (n, 1).
        decoder: The decoder.
    """

    def __init__(self, encoder: nn.Module, value: nn.Module, decoder: Decoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.value = value
        self.decoder = decoder

    def outputs(self, tokens: Tensor) -> Tensor:
        """Return the encoder's outputs, (n, steps, hidden), of tokens, (n, length)."""
        return F.normalize(self.encoder(tokens), dim=-1)

    def embedding(self, outputs: Tensor) -> Tensor:
        """Return the embeddings of outputs, (n, hidden)."""
        return F.normalize(outputs.mean(dim=1), dim=-1)

    def values(self, outputs: Tensor) -> Tensor:
        """Return the predicted values of outputs, (n,)."""
        return self.value(self.embedding(outputs))[:, 0]  # type: ignore[no-any-return]

    def loss(self, tokens: Tensor, values: Tensor, trade_off: float) -> Tensor:
        """Return trade_off * mean square error of values + (1 - trade_off) * mean -log p of the tokens.

        Args:
            tokens: Architectures, (n, length).
            values: Value of each, (n,).
            trade_off: Share of the first part.
        """
        outputs = self.outputs(tokens)
        log_p = self.decoder(tokens, outputs, self.embedding(outputs))
        written = F.nll_loss(log_p.flatten(0, 1), tokens.flatten())
        return trade_off * F.mse_loss(self.values(outputs), values) + (1 - trade_off) * written

    def gradient(self, outputs: Tensor) -> Tensor:
        """Return the gradient of the predicted values in the outputs, (n, steps, hidden)."""
        free = outputs.detach().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(self.values(free).sum(), free)[0]

    def written(self, outputs: Tensor, legal: Sequence[Sequence[int]]) -> Tensor:
        """Return the most probable legal tokens, one after another, (n, length), for outputs."""
        return self.decoder.greedy(outputs, self.embedding(outputs), legal)


def moved(outputs: Tensor, gradient: Tensor, step: float) -> Tensor:
    """Return outputs moved along the gradient of the value, each brought back to length 1.

    h' = (h + step * g) / |h + step * g|; a negative step leads to lower values.

    Args:
        outputs: Outputs h of an encoder, (n, steps, hidden).
        gradient: Gradient g, (n, steps, hidden).
        step: Length of the step, in units of the gradient.

    Source: Luo et al. 2018, arXiv:1808.07233, section 3.3.
    """
    return F.normalize(outputs + step * gradient, dim=-1)


class Decoder(nn.Module):
    """An LSTM over the tokens written so far, with attention to the encoder's outputs.

    It begins with the embedding as state and memory, and with token 0.

    Args:
        vocabulary: Number of tokens.
        hidden: Size of everything.
    """

    def __init__(self, vocabulary: int, hidden: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, hidden)
        self.lstm = nn.LSTM(hidden, hidden, batch_first=True)
        self.query = nn.Linear(hidden, hidden, bias=False)
        self.combine = nn.Linear(2 * hidden, hidden, bias=False)
        self.scores = nn.Linear(hidden, vocabulary)

    def forward(self, tokens: Tensor, outputs: Tensor, embedding: Tensor) -> Tensor:
        """Return log p of every token after the ones before it, (n, length, vocabulary)."""
        before = F.pad(tokens[:, :-1], (1, 0))
        return self._log_p(before, outputs, (embedding[None], embedding[None]))[0]

    def greedy(self, outputs: Tensor, embedding: Tensor, legal: Sequence[Sequence[int]]) -> Tensor:
        """Return the most probable token of those legal at each place, (n, length)."""
        token = torch.zeros(len(outputs), 1, dtype=torch.long)
        state, written = (embedding[None], embedding[None]), list[Tensor]()
        for allowed in legal:
            log_p, state = self._log_p(token, outputs, state)
            token = torch.tensor(allowed)[log_p[:, :, allowed].argmax(dim=2)]
            written.append(token)
        return torch.cat(written, dim=1)

    def _log_p(
        self, tokens: Tensor, outputs: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        hidden, state = self._read(self.tokens(tokens), outputs, state)
        return self.scores(hidden).log_softmax(dim=2), state

    def _read(
        self, x: Tensor, outputs: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return what the scores are made of, (n, length, hidden), and the LSTM's state."""
        hidden, state = self.lstm(x, state)
        return self._attend(hidden, outputs), state

    def _attend(self, hidden: Tensor, outputs: Tensor) -> Tensor:
        """Return tanh(W_o [context; h]), where the context is the mean of s weighted by (W_q h)' s."""
        weights = (self.query(hidden) @ outputs.transpose(1, 2)).softmax(dim=2)  # (n, length, steps)
        context = torch.cat([weights @ outputs, hidden], dim=2)
        return self.combine(context).tanh()  # type: ignore[no-any-return]


class NAONetwork(SequenceNetwork):
    """The network of NAO: an LSTM, one layer with a sigmoid for the value, and an LSTM.

    Args:
        vocabulary: Number of tokens.
        group: Number of neighbouring tokens that are read as one.
        hidden: Size of the LSTMs.
        embedding: Size of an embedded token of the encoder.

    Source: the authors' code of NAO, arXiv:1808.07233: 80,845 parameters for 12 tokens read in pairs.
    """

    def __init__(self, vocabulary: int, group: int = 1, *, hidden: int = 64, embedding: int = 32) -> None:
        value = nn.Sequential(nn.Linear(hidden, 1), nn.Sigmoid())
        encoder = _PairsEncoder(vocabulary, group, embedding, hidden)
        super().__init__(encoder, value, Decoder(vocabulary, hidden))


class _PairsEncoder(nn.Module):
    def __init__(self, vocabulary: int, group: int, embedding: int, hidden: int) -> None:
        super().__init__()
        self.group = group
        self.tokens = nn.Embedding(vocabulary, embedding)
        self.lstm = nn.LSTM(group * embedding, hidden, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens)  # (n, length, embedding)
        outputs: Tensor = self.lstm(x.reshape(len(x), -1, self.group * x.shape[2]))[0]
        return outputs


class SemiNASNetwork(SequenceNetwork):
    """The network of SemiNAS: residual connections, an LSTM in both directions, a value without bounds.

    Args:
        vocabulary: Number of tokens.
        group: Ignored: tokens are read one by one.
        hidden: Size of the LSTMs and of embedded tokens.
        bottleneck: Width of the predictor's hidden layer.
        dropout: Probability of dropout.

    Source: the authors' code of SemiNAS, arXiv:2002.10389: 123,928 parameters for 7 tokens.
    """

    def __init__(
        self,
        vocabulary: int,
        group: int = 1,
        *,
        hidden: int = 64,
        bottleneck: int = 16,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(
            _ResidualEncoder(vocabulary, hidden, dropout),
            _ResidualValue(hidden, bottleneck, dropout),
            _ResidualDecoder(vocabulary, hidden, dropout),
        )


class _ResidualEncoder(nn.Module):
    def __init__(self, vocabulary: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, hidden)
        self.dropout = nn.Dropout(dropout)
        self.lstm = nn.LSTM(hidden, hidden, batch_first=True, bidirectional=True)
        self.join = nn.Linear(2 * hidden, hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        x: Tensor = self.dropout(self.tokens(tokens))
        return x + self.join(self.lstm(x)[0])  # type: ignore[no-any-return]


class _ResidualValue(nn.Module):
    def __init__(self, hidden: int, bottleneck: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(hidden, bottleneck),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(bottleneck, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
        )
        self.last = nn.Linear(hidden, 1)

    def forward(self, embedding: Tensor) -> Tensor:
        value: Tensor = self.last((embedding + self.layers(embedding)) * math.sqrt(0.5))
        return value


class _ResidualDecoder(Decoder):
    def __init__(self, vocabulary: int, hidden: int, dropout: float) -> None:
        super().__init__(vocabulary, hidden)
        self.dropout = nn.Dropout(dropout)

    def _read(
        self, x: Tensor, outputs: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        x = self.dropout(x)
        hidden, state = self.lstm(x, state)
        x = (x + hidden) * math.sqrt(0.5)
        return (x + self._attend(x, outputs)) * math.sqrt(0.5), state
