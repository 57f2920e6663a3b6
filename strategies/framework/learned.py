"""Base of strategies that learn logits: settings, tables, history, derivation and state."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spacelang.arguments import KnownArguments
from spacelang.errors import require_all, require_integer, require_number
from spacelang.language import Architecture
from spacelang.randomness import torch_generator
from spacelang.supernet import Supernet

from .derivation import top_architectures
from .logits import ArchitectureParameters
from .relaxation import Mixture, Moment, Phase, Relaxation, running
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

    def architectures(
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
        derived: Outcome of the derivation at the end of training; None until then.
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
        self.derived: Derived | None = None
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
            known = [self.supernet.decision_space.canonical(arch) for arch in found]
            others = self.strategy.architectures(self.supernet, self.ranking_tables(), count + len(found))
            found += [arch for arch in others if self.supernet.decision_space.canonical(arch) not in known]
        return found[:count]

    def ranking_tables(self) -> Mapping[str, Tensor]:
        """Return the tables that say which architecture is best, by group label, (rows, columns)."""
        if self.derived is not None and self.derived.tables is not None:
            return self.derived.tables
        return self.probabilities() if self.ranked is None else self.ranked

    @property
    def judged(self) -> Sequence[Scored]:
        """Measured architectures, best first, that come before those of the tables."""
        return () if self.derived is None else self.derived.judged

    def rank(self, tables: Mapping[str, Tensor]) -> None:
        """Derive from other numbers than probabilities: tables of what is at least 0, by group label."""
        self.ranked = {label: table.detach().cpu() for label, table in tables.items()}

    # -- mixtures --------------------------------------------------------------------------------------

    def mixtures(self, phase: Phase) -> dict[str, Mixture]:
        """Return mixtures of the present logits by group label; a random relaxation draws again."""
        moment, groups = dataclasses.replace(self.moment, phase=phase), self.supernet.groups
        return {
            label: self.relaxation.mixture(groups[label], logits, moment)
            for label, logits in self.parameters.logits.items()
        }

    def compute_with(self, mixtures: Mapping[str, Mixture]) -> None:
        """Hand the supernet mixtures by group label; groups left out keep theirs."""
        self.supernet.set_mixture(
            {label: mixture.weights for label, mixture in mixtures.items()},
            {label: mixture.active for label, mixture in mixtures.items() if mixture.active is not None},
            edges={label: mixture.edges for label, mixture in mixtures.items() if mixture.edges is not None},
            adds_gates=any(mixture.adds_gates for mixture in mixtures.values()),
            silent={x: mixture.silent for x, mixture in mixtures.items() if mixture.silent is not None},
        )

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
            "derived": None if self.derived is None else self.derived.state_dict(),
            "best_of_epochs": list(self.best_of_epochs),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.parameters.load_state_dict(state)
        self.history = {label: list(state["history"].get(label, ())) for label in self.supernet.groups}
        self.ranked = state["ranked"]
        self.derived = None if state["derived"] is None else Derived.of(state["derived"])
        self.best_of_epochs = list(state["best_of_epochs"])
        self.schedule.load_state_dict(state["schedule"])
        super().load_state_dict(state)


@dataclass(frozen=True)
class Derived:
    """Outcome of a derivation.

    Args:
        by: The derivation, as text.
        tables: Numbers of at least 0 that are ranked in place of probabilities, by group label.
        judged: Measured architectures, best first, that come before all others.
    """

    by: str
    tables: Mapping[str, Tensor] | None = None
    judged: Sequence[Scored] = ()

    def state_dict(self) -> dict[str, Any]:
        """Return plain values and tensors."""
        judged = [[value, dict(arch)] for value, arch in self.judged]
        return {"by": self.by, "tables": self.tables, "judged": judged}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Derived:
        """Return what `state_dict` described."""
        judged = [(value, arch) for value, arch in state["judged"]]
        return cls(state["by"], state["tables"], judged)


@dataclass(frozen=True)
class Derivation(KnownArguments):
    """Base of derivations, which say when training has ended what is best; this one the most probable.

    A derivation is a frozen dataclass of settings.
    """

    def check(self, strategy: LogitsStrategy, supernet: Supernet) -> None:
        """Raise a `SpaceError`, before training, where this derivation does not work."""

    def tables(self, search: LogitsSearch) -> Mapping[str, Tensor] | None:
        """Return numbers of at least 0 to rank in place of probabilities, by group label, (rows, columns)."""
        return None

    def judged(self, search: LogitsSearch) -> Sequence[Scored]:
        """Return measured architectures, best first, that come before those of the tables."""
        return ()


def runs_several(strategy: OneShot, supernet: Supernet) -> bool:
    """Return whether the weights are trained with more than one candidate of some edge or choice."""
    if not isinstance(strategy, LogitsStrategy):
        return False
    moment, relaxation = Moment(0, 1, torch.Generator()), strategy.relaxation
    return any(
        bool((running(group, mixture).sum(dim=1) > 1).any())
        for group in supernet.groups.values()
        for mixture in [relaxation.mixture(group, torch.zeros(relaxation.shape(group)), moment)]
    )
