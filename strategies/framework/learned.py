"""Base of strategies that learn logits: settings, tables, history, derivation and state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spacelang.errors import require_all, require_integer, require_number
from spacelang.language import Architecture
from spacelang.randomness import torch_generator
from spacelang.supernet import Supernet

from .derivation import top_architectures
from .logits import ArchitectureParameters
from .relaxation import Relaxation
from .schedule import Schedule
from .search import OneShot, OneShotSearch, Scored


@dataclass(frozen=True, kw_only=True)
class LogitsStrategy(OneShot):
    """Base of strategies that learn logits, from which architectures are derived.

    Args:
        learning_rate: Adam's learning rate for the logits.
        betas: Adam's decay rates of its two moments.
        weight_decay: Adam's weight decay, which pulls logits towards the uniform mixture.
        init_scale: Scale of the first logits, `init_scale * N(0, 1)`.
    """

    learning_rate: float = 3e-4
    betas: tuple[float, float] = (0.5, 0.999)
    weight_decay: float = 1e-3
    init_scale: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("learning_rate", self.learning_rate, above=0)
        require_all(require_number, self, "weight_decay", "init_scale", least=0)

    @property
    def relaxation(self) -> Relaxation:
        """How logits become mixtures."""
        raise NotImplementedError(f"{type(self).__name__} must say its relaxation")

    def make_optimizer(self, logits: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Return a new optimiser of the logits."""
        return torch.optim.Adam(
            logits, lr=self.learning_rate, betas=self.betas, weight_decay=self.weight_decay
        )

    def make_schedule(self) -> Schedule:
        """Return a new schedule, which acts between the epochs of one search."""
        return Schedule()

    def derive(
        self, supernet: Supernet, probabilities: Mapping[str, Tensor], count: int
    ) -> list[Architecture]:
        """Return the `count` best architectures, best first, from tables of probabilities."""
        return top_architectures(supernet, probabilities, count)


class LogitsSearch(OneShotSearch):
    """A search that has logits: what they say, what they said after each epoch, and what is derived.

    Args:
        strategy, supernet, seed, stage, val_dataloader: See `OneShotSearch`.
        relaxation: Relaxation to use in place of the strategy's.

    Attributes:
        parameters: The logits and their moments, by group label.
        schedule: Acts between epochs.
        history: Table of probabilities after each epoch, by group label.
        ranked: Tables that are derived in place of the present probabilities; None for these.
        judged: Measured architectures, best first, that come before those of the tables.
        best_of_epochs: Most probable architecture after each epoch.
    """

    strategy: LogitsStrategy

    def __init__(
        self,
        strategy: LogitsStrategy,
        supernet: Supernet,
        *,
        seed: int = 0,
        stage: int = 0,
        val_dataloader: Iterable[Any] | None = None,
        relaxation: Relaxation | None = None,
    ) -> None:
        super().__init__(strategy, supernet, seed=seed, stage=stage, val_dataloader=val_dataloader)
        self.relaxation = relaxation or strategy.relaxation
        self.parameters = ArchitectureParameters(
            supernet,
            self.relaxation,
            init_scale=strategy.init_scale,
            generator=torch_generator(seed, stage),
            make_optimizer=strategy.make_optimizer,
        )
        self.schedule = strategy.make_schedule()
        self.history: dict[str, list[Tensor]] = {label: [] for label in supernet.groups}
        self.ranked: dict[str, Tensor] | None = None
        self.judged: list[Scored] = []
        self.best_of_epochs: list[Architecture] = []

    def probabilities(self) -> dict[str, Tensor]:
        """Return the tables that derivation ranks, by group label, (rows, columns), detached."""
        groups = self.supernet.groups
        with torch.no_grad():
            return {x: self.relaxation.probabilities(groups[x], p) for x, p in self.parameters.logits.items()}

    def tables(self) -> dict[str, list[list[float]]]:
        """Return `probabilities` as plain numbers."""
        return {label: table.tolist() for label, table in self.probabilities().items()}

    def distributions(self) -> dict[str, Tensor]:
        """Return `Relaxation.distribution` of every group, by label, (rows, columns).

        They are differentiable in the logits that the present step may move.
        """
        groups = self.supernet.groups
        return {x: self.relaxation.movable(groups[x], p) for x, p in self.parameters.logits.items()}

    def edge_shares(self) -> dict[str, Tensor]:
        """Return `Relaxation.edge_shares` of the cells that weigh their edges, by label, (rows,)."""
        groups = self.supernet.groups
        shares = {x: self.relaxation.edge_shares(groups[x], p) for x, p in self.parameters.logits.items()}
        return {label: share for label, share in shares.items() if share is not None}

    def derive(self, count: int = 1) -> list[Architecture]:
        """Return the `count` best architectures: those that were judged, then the most probable."""
        require_integer("count", count, least=1)
        found = [dict(arch) for _, arch in self.judged[:count]]
        if len(found) < count:
            tables = self.probabilities() if self.ranked is None else self.ranked
            known = [self.supernet.decision_space.canonical(arch) for arch in found]
            others = self.strategy.derive(self.supernet, tables, count + len(found))
            found += [arch for arch in others if self.supernet.decision_space.canonical(arch) not in known]
        return found[:count]

    def rank(self, tables: Mapping[str, Tensor]) -> None:
        """Derive from other numbers than probabilities: tables of what is at least 0, by group label."""
        self.ranked = {label: table.detach().cpu() for label, table in tables.items()}

    def return_to(self, epoch: int) -> None:
        """Derive from the probabilities after an earlier epoch; the weights stay as they are."""
        self.rank({label: past[epoch] for label, past in self.history.items()})

    def summary(self) -> dict[str, Any]:
        """Return plain values for a report."""
        judged = [{"value": value, "architecture": arch} for value, arch in self.judged[:10]]
        return {
            **super().summary(),
            **self.schedule.summary(self),
            **({"compared_by": self.strategy.metric or "loss", "judged": judged} if judged else {}),
            "best_of_epochs": self.best_of_epochs,
        }

    def deciding(self) -> dict[str, Tensor]:
        """Return the logits by group label."""
        return dict(self.parameters.logits)

    # -- history and state ---------------------------------------------------------------------------

    def record_probabilities(self) -> None:
        """Keep the probabilities of this epoch and the most probable architecture; log the first."""
        metrics: dict[str, float] = {}
        for label, table in self.probabilities().items():
            group, table = self.supernet.groups[label], table.cpu()
            self.history[label].append(table)
            for row, values in zip(group.rows, table.tolist(), strict=True):
                place = f"{label}/{row}" if row else label
                metrics |= {f"alpha/{place}/{c}": p for c, p in zip(group.columns, values, strict=True)}
        self.training.log(metrics)
        self.best_of_epochs += self.derive(1)

    def state_dict(self) -> dict[str, Any]:
        """Return also logits, moments and the history of probabilities."""
        return {
            **super().state_dict(),
            **self.parameters.state_dict(),
            "schedule": self.schedule.state_dict(),
            "history": {label: torch.stack(tables) for label, tables in self.history.items() if tables},
            "ranked": self.ranked,
            "judged": [[value, dict(arch)] for value, arch in self.judged],
            "best_of_epochs": list(self.best_of_epochs),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.parameters.load_state_dict(state)
        self.history = {label: list(state["history"].get(label, ())) for label in self.supernet.groups}
        self.ranked = state["ranked"]
        self.judged = [(value, arch) for value, arch in state["judged"]]
        self.best_of_epochs = list(state["best_of_epochs"])
        self.schedule.load_state_dict(state["schedule"])
        super().load_state_dict(state)
