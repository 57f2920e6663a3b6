"""Progressive shrinking: the training of once-for-all networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from spacelang import SpaceError
from spacelang.errors import quoted, require_all, require_integer, require_number
from spacelang.language import Architecture
from spacelang.supernet import Supernet, sort_channels

from ..framework import Call, ElasticSearch, ElasticTraining, sizes


@dataclass(frozen=True)
class Opening:
    """A phase of progressive shrinking: some decisions may choose smaller sizes from then on.

    Args:
        labels: Pattern of their labels, as in file names.
        sizes: Number of the largest candidates that may be chosen; None for all.
        networks: Number of networks that each batch trains.
        epochs: Number of epochs; None for the evaluator's `max_epochs`.
        learning_rate: Learning rate with which the weights begin it; None for the module's.
    """

    labels: str
    sizes: int | None = None
    networks: int = 1
    epochs: int | None = None
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        require_all(require_integer, self, "sizes", "epochs", least=1, optional=True)
        require_integer("networks", self.networks, least=1)
        require_number("learning_rate", self.learning_rate, above=0, optional=True)

    def opens(self, label: str) -> bool:
        """Return whether it opens a decision."""
        return fnmatchcase(label, self.labels)


@dataclass(frozen=True, kw_only=True)
class ProgressiveShrinking(ElasticTraining):
    """Progressive shrinking: first the full network, then also smaller kernels, depths and widths.

    The first stage trains the largest network alone. Each phase after it is a stage of its own, with new
    optimisers, that begins with the weights before, lets some decisions choose smaller sizes, and trains
    `networks` random networks on each batch by

        L = sum_i [ loss(y_i, t) + distillation * distance(y_i, f(x)) ],

    where f is the full network as it was after the first stage, in training mode. Before a phase that opens
    numbers of channels, these are sorted by importance (`spacelang.supernet.sort_channels`), so that narrow
    networks begin with the best; what was trained so far computes the same after it.

    `filter` limits what is found in the end, not what is trained. Every decision of the space must be a size
    that some phase opens. The defaults fit
    `spacelang.hub.OnceForAll`: kernels, then two and three depths, then two and three widths.

    Unless they say otherwise all stages have the evaluator's `max_epochs` and the module's learning rate;
    `ProgressiveShrinking.authors()` has the authors' numbers for each. Images have the size that the data
    have, where theirs change from batch to batch.

    Args:
        phases: Phases after the first stage, in order; each keeps open what those before it opened.
        distillation: Weight of the distance to the full network's output; 0 for none.
        sandwich: Whether the largest network of the phase, and then the smallest, take the places of random
            ones in each batch; one random one is left.
        full_epochs: Number of epochs of the first stage; None for the evaluator's `max_epochs`.

    Source: once-for-all, Cai et al. 2020, arXiv:1908.09791, section 3.3.
    """

    phases: tuple[Opening, ...] = (
        Opening("*_ks", networks=1),
        Opening("*_depth", 2, networks=2),
        Opening("*_depth", 3, networks=2),
        Opening("*_exp", 2, networks=4),
        Opening("*_exp", 3, networks=4),
    )
    distillation: float = 1.0
    sandwich: bool = False
    full_epochs: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("full_epochs", self.full_epochs, least=1, optional=True)
        require_number("distillation", self.distillation, least=0)
        if not self.phases or not all(isinstance(phase, Opening) for phase in self.phases):
            raise SpaceError(f"phases={self.phases!r} must be a tuple of Opening('*_ks'), ..., at least one.")

    @classmethod
    def authors(cls, **settings: Any) -> ProgressiveShrinking:
        """Return the authors' epochs and learning rates; the rates are for 64 images on each GPU.

        The full network has 180 epochs with the module's learning rate.

        Args:
            settings: Settings to use in place of the authors'.
        """
        phases = (
            Opening("*_ks", networks=1, epochs=120, learning_rate=0.03),
            Opening("*_depth", 2, networks=2, epochs=25, learning_rate=0.0025),
            Opening("*_depth", 3, networks=2, epochs=120, learning_rate=0.0075),
            Opening("*_exp", 2, networks=4, epochs=25, learning_rate=0.0025),
            Opening("*_exp", 3, networks=4, epochs=120, learning_rate=0.0075),
        )
        own: dict[str, Any] = {"phases": phases, "full_epochs": 180}
        return cls(**(own | settings))

    @property
    def stages(self) -> int:
        return 1 + len(self.phases)

    def epochs_of(self, stage: int) -> int | None:
        return self.phases[stage - 1].epochs if stage else self.full_epochs

    def learning_rate_of(self, stage: int) -> float | None:
        return self.phases[stage - 1].learning_rate if stage else None

    def check(self, supernet: Supernet) -> None:
        super().check(supernet)
        known = sizes(supernet)
        for phase in self.phases:
            if not any(map(phase.opens, known)):
                raise SpaceError(
                    f"no size of this space is named as in Opening({phase.labels!r}); its sizes are "
                    f"{quoted(known)}."
                )
        unopened = [
            label
            for label in supernet.decision_space.by_label
            if label not in known or not any(phase.opens(label) for phase in self.phases)
        ]
        self.refuse(
            map(repr, unopened),
            "trains the largest network first, and smaller sizes phase by phase",
            "They are no sizes, or no phase opens them: name them in phases=, or use Sandwich.",
        )

    def opened(self, supernet: Supernet, stage: int) -> dict[str, tuple[Any, ...]]:
        """Return the candidates that may be chosen in a stage by label, largest first."""
        found = {}
        for label, values in sizes(supernet).items():
            counts = [phase.sizes for phase in self.phases[:stage] if phase.opens(label)]
            found[label] = values[: counts[-1] if counts else 1]
        return found

    def make_search(self, supernet: Supernet, previous: Any, **settings: Any) -> ShrinkingSearch:
        return ShrinkingSearch(self, supernet, previous=previous, **settings)


class ShrinkingSearch(ElasticSearch):
    """One phase of progressive shrinking.

    Args:
        previous: Search of the phase before, with whose weights this one begins.

    Attributes:
        teacher: The full network after the first stage; None in it.
        sizes: Candidates that may be chosen in this phase, largest first.
    """

    strategy: ProgressiveShrinking

    def __init__(self, *args: Any, previous: ShrinkingSearch | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sizes = self.strategy.opened(self.supernet, self.stage)
        self.teacher: nn.Module | None = None
        if previous is not None:
            self.supernet.load_state_dict(previous.supernet.state_dict())
            largest = {label: values[0] for label, values in self.sizes.items()}
            self.teacher = previous.teacher or previous.supernet.freeze(largest)
            opening = [label for label in self.sizes if self.strategy.phases[self.stage - 1].opens(label)]
            sort_channels(self.supernet, opening, previous.sizes)

    def paths(self) -> list[Architecture]:
        """Return the networks of a batch: random ones, or with the sandwich rule the ends first."""
        phase = self.strategy.phases[self.stage - 1] if self.stage else None
        if phase is None:
            return [self.of_size(lambda values: values[0])]
        ends = self.extremes()[: phase.networks - 1] if self.strategy.sandwich else ()
        return [*ends, *(self.random() for _ in range(phase.networks - len(ends)))]

    def random(self) -> Architecture:
        """Return a random architecture of the sizes that are open."""
        return self.of_size(lambda values: values[int(self.rng.integers(len(values)))])

    @property
    def accepts(self) -> Callable[[Architecture], bool] | None:
        """The strategy's `filter` in the last phase; before, what it accepts may not be open yet."""
        return self.strategy.filter if self.stage + 1 == self.strategy.stages else None

    def path_loss(self, place: int, loss: Tensor, call: Call) -> Tensor:
        """Return the module's loss and the distance to the full network."""
        if self.teacher is None or not self.strategy.distillation:
            return loss
        with torch.no_grad():
            output = self.teacher.train()(*call.args, **call.kwargs)
        soft = output[0] if isinstance(output, tuple) else output
        return loss + self.strategy.distillation * self.strategy.distance(call.output, soft)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Move the teacher to the device."""
        super().on_fit_start(trainer, pl_module)
        if self.teacher is not None:
            self.teacher.to(pl_module.device)
