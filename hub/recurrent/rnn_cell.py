"""The recurrent cell of ENAS and DARTS: an activation and an earlier node for each node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from spacelang import Cell, ModelSpace
from spacelang.errors import require_integer, require_one_of
from spacelang.language import current_architecture

Masks: TypeAlias = "tuple[Tensor, Tensor]"
"""Dropout masks of the input, (B, input_size), and of the hidden state, (B, hidden_size)."""

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "identity": lambda x: x,
}
RANGE = 0.04  # weights begin uniform between -RANGE and RANGE


class RNNCell(ModelSpace):
    """The recurrent cell of DARTS and ENAS: for each node an activation and one of the states before it.

    (c, h) = [x, h_prev] W_0, s_0 = h_prev + sigmoid(c) (tanh(h) - h_prev); node i with activation f reads
    state p: (c, h) = s_p W_i, s_i = s_p + sigmoid(c) (f(h) - s_p). The output is the mean of the nodes.
    Decisions are `cell/op_{i}_0` and `cell/input_{i}_0`, i from 1; input 0 is s_0.

    One class makes two cells; `norm` selects one. The search cell normalises s_0 and the state of every node
    by the statistics of the batch, which needs at least two rows; the evaluation cell does not. `norm=None`
    selects the search cell where a space is declared, and the evaluation cell under `model_context`.

    Args:
        input_size: Length of x.
        hidden_size: Length of the hidden state and of every node.
        num_nodes: Number of nodes: 8 in DARTS, 11 in ENAS.
        merge_op: States in the mean: those of "all" nodes (DARTS), or of the nodes that no node reads
            ("loose_end", ENAS).
        activations: Names of the candidates, among "tanh", "relu", "sigmoid" and "identity".
        norm: True for the search cell, False for the evaluation cell, None for the rule above.

    Source: DARTS, arXiv:1806.09055, section 3.1.2 and appendix; ENAS, arXiv:1802.03268, section 2.1.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_nodes: int = 8,
        *,
        merge_op: Literal["all", "loose_end"] = "all",
        activations: Sequence[str] = tuple(ACTIVATIONS),
        norm: bool | None = None,
    ) -> None:
        super().__init__()
        for name, size in (("input_size", input_size), ("hidden_size", hidden_size)):
            require_integer(name, size, least=1)
        require_one_of("merge_op", merge_op, ("all", "loose_end"))
        for activation in activations:
            require_one_of("activations", activation, ACTIVATIONS)
        self.normalised = current_architecture() is None if norm is None else norm
        self.norm = batch_norm(hidden_size) if self.normalised else None
        self.first = gate_and_candidate(input_size + hidden_size, hidden_size)
        self.cell = Cell(
            {name: Highway(name) for name in activations},
            num_nodes,
            merge_op="mean" if merge_op == "all" else "loose_end",
            postprocessor=None if merge_op == "all" else MeanOf(hidden_size),
            projection=lambda node: Projection(hidden_size),
            node_postprocessor=self.norm,
            label="cell",
        )

    def forward(self, x: Tensor, hidden: Tensor, masks: Masks | None = None) -> Tensor:
        """Return the next hidden state, (B, hidden_size).

        Args:
            x: Input, (B, input_size).
            hidden: Hidden state, (B, hidden_size).
            masks: Dropout masks of x and of every state that is projected; the same in each step of a
                sequence (variational dropout). None for no dropout.
        """
        read = torch.cat([x, hidden] if masks is None else [x * masks[0], hidden * masks[1]], dim=-1)
        c, h = self.first(read).chunk(2, dim=-1)
        first = hidden + c.sigmoid() * (h.tanh() - hidden)
        first = first if self.norm is None else self.norm(first)
        output: Tensor = self.cell(first) if masks is None else self.cell(first, masks[1])
        return output

    @property
    def arguments(self) -> dict[str, Any]:
        """Return the constructor's arguments; for a fixed cell with the `norm` that it was built with."""
        given = super().arguments
        return given if self.decisions else {**given, "norm": self.normalised}


def gate_and_candidate(inputs: int, width: int) -> nn.Linear:
    """Make a layer that computes a gate and a candidate, side by side: inputs -> 2 width, without bias."""
    layer = nn.Linear(inputs, 2 * width, bias=False)
    nn.init.uniform_(layer.weight, -RANGE, RANGE)
    return layer


def batch_norm(width: int) -> nn.BatchNorm1d:
    """Make a normalisation by the statistics of the batch, in evaluation too: one serves all nodes."""
    return nn.BatchNorm1d(width, affine=False, track_running_stats=False)


class Projection(nn.Module):
    """Projection of a state s on its way to a node: (s, c, h) with (c, h) = s W, dropout before W."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = gate_and_candidate(width, width)

    def forward(self, state: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        c, h = self.linear(state if mask is None else state * mask).chunk(2, dim=-1)
        return state, c.sigmoid(), h


class Highway(nn.Module):
    """Highway from a projected state to a node: s + gate (f(h) - s).

    Args:
        activation: Name of f, a key of `ACTIVATIONS`.
    """

    def __init__(self, activation: str) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, projected: tuple[Tensor, Tensor, Tensor], mask: Tensor | None = None) -> Tensor:
        state, gate, h = projected
        return state + gate * (ACTIVATIONS[self.activation](h) - state)

    def extra_repr(self) -> str:
        return self.activation


class MeanOf(nn.Module):
    """Mean of states that stand side by side: (B, n width) -> (B, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, states: Tensor, given: Any) -> Tensor:
        return states.view(states.shape[0], -1, self.width).mean(dim=1)
