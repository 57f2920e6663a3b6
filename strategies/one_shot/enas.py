"""ENAS: a controller learns by reinforcement which paths of the supernet are good."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from spacelang import SpaceError
from spacelang.errors import closest
from spacelang.supernet import Supernet

from .._framework._path_sampling import PathSampling
from ._controller import Controller

if TYPE_CHECKING:
    from ._controller_search import ControllerSearch


@dataclass(frozen=True, kw_only=True)
class ENAS(PathSampling):
    """Efficient architecture search by parameter sharing.

    An LSTM controller draws the architecture of every training batch. After each epoch it takes
    `controller_steps` steps of Adam along the mean over `samples` architectures of the policy gradient

        -grad log pi(arch) * (R - b) + skip_weight * grad KL,    R = reward + entropy_weight * H(pi),

    with b moved a share 1 - `baseline_decay` towards R before its use, and H without gradient. The reward is
    taken on one validation batch, whose own statistics normalise it: the metric, or exp(-loss). At the end
    the best of `candidates` draws is the result. Draws that break a constraint of the space, or that
    `filter` rejects, are drawn again.

    Args:
        controller_steps, samples: of an epoch; the authors' numbers, 300 forward passes.
        learning_rate, betas, eps: of Adam on the controller.
        baseline_decay: of the baseline b, which begins as 0.
        entropy_weight: of the bonus for undecided controllers.
        hidden: size of the LSTM.
        temperature, tanh_constant: logits l become c tanh(l / T).
        op_tanh_reduce: c is divided by it for operations in cells.
        operation_bias: added to logits after that, by `"{cell label}/{operation}"`. The authors' code favours
            the convolutions of normal cells: 0.25 for them, -0.25 for the others.
        skip_target, skip_weight: KL is the divergence of the inclusion probabilities of inputs from
            `skip_target`, for input choices of any set; macro search spaces have such.
        candidates: architectures drawn and compared at the end.

    Source: ENAS, Pham et al. 2018, arXiv:1802.03268, sections 2.2 to 2.4; constants and Adam's settings of
    the authors' published code for cells.
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
    skip_target: float = 0.4
    skip_weight: float = 0.8
    candidates: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_integers(1, "controller_steps", "samples", "hidden", "candidates")
        for name in ("learning_rate", "temperature", "tanh_constant", "op_tanh_reduce"):
            if getattr(self, name) <= 0:
                raise SpaceError(f"{name}={getattr(self, name)} must be positive.")
        for name in ("baseline_decay", "skip_target"):
            if not 0 < getattr(self, name) < 1:
                raise SpaceError(f"{name}={getattr(self, name)} must lie in (0, 1).")

    @property
    def measurements(self) -> int:
        return self.candidates

    def controller(self, supernet: Supernet, generator: torch.Generator) -> Controller:
        """A controller for the decisions of a supernet, its first weights drawn from `generator`."""
        return Controller(
            supernet.decision_space,
            supernet.groups.values(),
            hidden=self.hidden,
            temperature=self.temperature,
            tanh_constant=self.tanh_constant,
            op_tanh_reduce=self.op_tanh_reduce,
            operation_bias=self.operation_bias,
            skip_target=self.skip_target,
            generator=generator,
        )

    def check(self, supernet: Supernet) -> None:
        super().check(supernet)
        cells = [group for group in supernet.groups.values() if group.topology is not None]
        known = [f"{group.label}/{operation}" for group in cells for operation in group.columns]
        for name in self.operation_bias:
            if name not in known:
                raise SpaceError(
                    f"operation_bias names {name!r}, which is no operation of a cell." + closest(name, known)
                )

    def make_search(self, supernet: Supernet, previous: Any, **settings: Any) -> ControllerSearch:
        from ._controller_search import ControllerSearch

        return ControllerSearch(self, supernet, **settings)
