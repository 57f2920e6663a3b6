"""Architecture parameters: the logits of a search and their optimiser."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from spacelang import SpaceError
from spacelang.supernet import Supernet

from .relaxation import Relaxation
from .update import constant


class ArchitectureParameters:
    """Logits by group label, with their optimiser.

    They live outside every module, so that a user's `self.parameters()` never contains them. State is kept
    by label: a resumed search finds its moments whatever the order in which a space is built.

    Args:
        supernet: Gives the groups.
        relaxation: Gives the first logits.
        init_scale: Scale of the first logits, see `Relaxation.initial`.
        generator: Draws them.
        make_optimizer: Makes the optimiser of the logits, whose state is kept by label.
    """

    def __init__(
        self,
        supernet: Supernet,
        relaxation: Relaxation,
        *,
        init_scale: float,
        generator: torch.Generator,
        make_optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
    ) -> None:
        self._groups = supernet.groups
        self.logits = {
            label: nn.Parameter(relaxation.initial(group, init_scale, generator))
            for label, group in supernet.groups.items()
        }
        self.optimizer = make_optimizer(list(self.logits.values()))

    def step(self, gradients: Sequence[Tensor | None]) -> None:
        """Step along gradients, one for each of `logits` in their order.

        Where a gradient is None, logits and moments stay as they are, without weight decay. So do the logits
        of rows with nothing left to choose.
        """
        settled = {label: self._settled(label) for label in self.logits}
        before = {label: self.logits[label].detach()[rows] for label, rows in settled.items() if rows}
        for parameter, gradient in zip(self.logits.values(), gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad()
        for label, kept in before.items():  # else Adam's weight decay and momentum would go on moving them
            self.logits[label].data[settled[label]] = kept

    def continue_from(
        self, previous: ArchitectureParameters, kept: Mapping[str, Tensor], *, moments: bool
    ) -> None:
        """Begin with another's logits, zero where they are not `kept`.

        Args:
            previous: Logits of the same groups.
            kept: Booleans by group label, in the shape of the logits.
            moments: Whether to begin with its moments too.
        """
        for label, parameter in self.logits.items():
            mask, before = kept[label], previous.logits[label]
            parameter.data = before.detach().cpu() * mask
            if moments and before in previous.optimizer.state:
                self.optimizer.state[parameter] = {
                    name: value.detach().cpu() * mask if value.dim() else value.detach().clone()
                    for name, value in previous.optimizer.state[before].items()
                }

    def constant(self) -> AbstractContextManager[None]:
        """Let nothing computed inside be differentiable in the logits."""
        return constant(self.logits.values())

    def _settled(self, label: str) -> list[int]:
        """Return the rows of a group that were pruned to one candidate or none."""
        return [r for r, row in enumerate(self._groups[label].alive) if sum(row) < min(2, len(row))]

    def to(self, device: torch.device) -> None:
        """Move logits and moments."""
        for parameter in self.logits.values():
            parameter.data = parameter.data.to(device)
            state = self.optimizer.state.get(parameter, {})
            for name, value in state.items():
                if name != "step" and isinstance(value, Tensor):
                    state[name] = value.to(device)

    def state_dict(self) -> dict[str, Any]:
        """Return logits and moments by label."""
        return {
            "logits": {label: p.detach().cpu().clone() for label, p in self.logits.items()},
            "moments": {
                label: {name: value.detach().cpu().clone() for name, value in self.optimizer.state[p].items()}
                for label, p in self.logits.items()
                if p in self.optimizer.state
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            SpaceError: it is of another space.
        """
        saved = {label: tuple(logits.shape) for label, logits in state["logits"].items()}
        own = {label: tuple(p.shape) for label, p in self.logits.items()}
        if saved != own:
            raise SpaceError(
                f"the checkpoint is of another space: it has logits {saved}; this search has {own}."
            )
        for label, parameter in self.logits.items():
            parameter.data.copy_(state["logits"][label])
            if label in state["moments"]:
                moments = {name: value.clone() for name, value in state["moments"][label].items()}
                self.optimizer.state[parameter] = moments
