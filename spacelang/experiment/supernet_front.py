"""Trade-offs that a trained supernet offers: an evolutionary search with its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import SpaceError, require_integer
from ..files import dump_yaml, write_atomic
from ..language import Architecture, Space
from ..randomness import global_generators_kept
from ..results import Drawing, save_bundle
from ..results.report.html import settings, table
from ..results.report.trial_charts import pareto
from ..supernet import Supernet
from ..trials import Exhausted, History, Objective, Proposal, Trial
from ..trials.export import to_dataframe

if TYPE_CHECKING:
    import pandas

_TRIES = 100
_OF_INPUT = ("flops", "macs", "latency")


@dataclass(frozen=True)
class FrontEvolution:
    """A strategy that mixes and mutates the architectures on the best Pareto fronts so far.

    Args:
        initial: Architectures drawn at random before.
        parents: Number of the best architectures, by the rank of their front, that have children.
    """

    initial: int = 20
    parents: int = 10

    def start(self, space: Any) -> FrontEvolution:
        """Begin a search; it knows only the history."""
        return self

    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        """Return a new architecture: at random at first, later a child of two parents, mutated.

        Raises:
            Exhausted: 100 children and 100 random architectures in a row were known.
        """
        space = history.space
        parents = history.ranked(self.parents) if len(history) >= self.initial else []
        for _ in range(_TRIES if parents else 0):
            first, second = (parents[int(rng.integers(len(parents)))].arch for _ in range(2))
            child = space.mutate(space.crossover(first, second, rng), rng)
            if child not in history:
                return Proposal(child)
        for _ in range(_TRIES):
            arch = space.sample(rng)
            if arch not in history:
                return Proposal(arch)
        raise Exhausted("hardly any architecture of the space is left")


@dataclass(frozen=True)
class Front:
    """Architectures that no other measured one beats in every objective, with the weights of a supernet.

    Attributes:
        history: Every architecture that was measured.
        directory: Run folder of the search; its `front.svg` and `front.yaml` are the picture and the table.
        bundles: Folder of each point's bundle, in the order of `trials`.
    """

    history: History = field(repr=False)
    directory: Path
    bundles: tuple[Path, ...]

    @property
    def trials(self) -> list[Trial]:
        """The points of the front, best first by the first objective."""
        return self.history.pareto()

    @property
    def architectures(self) -> list[Architecture]:
        """Their architectures."""
        return [dict(trial.arch) for trial in self.trials]

    def to_dataframe(self) -> pandas.DataFrame:
        """Return a table with a row for each point."""
        return to_dataframe(self.trials)

    def draw(self) -> Drawing:
        """Return a picture of all measured architectures by the first two objectives, with the front."""
        scene = pareto(self.history)
        if scene is None:
            raise SpaceError("a trade-off has two objectives at least, and architectures that were measured.")
        return Drawing(replace(scene, title="Trade-off"))

    def _repr_svg_(self) -> str:
        return self.draw().svg

    def _repr_html_(self) -> str:
        names = [objective.metric for objective in self.history.objectives]
        rows = [[*(t.metrics[name] for name in names), settings(t.arch)] for t in self.trials]
        return self._repr_svg_() + table([*names, "architecture"], rows)


def check_front(objectives: Sequence[Objective], samples: int) -> None:
    """Raise unless there are two objectives at least and one sample."""
    given = objectives if isinstance(objectives, list | tuple) else []
    if len(given) < 2 or not all(isinstance(objective, Objective) for objective in given):
        raise SpaceError(
            f"objectives={objectives!r:.100} must be a list of two or more, such as "
            '[Maximize("val_acc"), Minimize("params")].'
        )
    require_integer("samples", samples, least=1)


def inherited_evaluator(evaluator: Any, supernet: Supernet, calibration_batches: int) -> Any:
    """Return the evaluator that measures architectures with the weights of a supernet.

    Raises:
        SpaceError: The evaluator has no such form.
    """
    make = getattr(evaluator, "inherited", None)
    if make is None:
        raise SpaceError(
            f"{type(evaluator).__name__} cannot measure architectures with a supernet's weights; it needs a "
            "method inherited(supernet, calibration_batches=...), as those of spacelang.evaluators have."
        )
    return make(supernet, calibration_batches=calibration_batches)


def example_of(evaluator: Any, objectives: Sequence[Objective]) -> Any:
    """Return one training input where an objective depends on its size; None elsewhere.

    Raises:
        SpaceError: There is none at hand.
    """
    if not any(objective.metric in _OF_INPUT for objective in objectives):
        return None
    try:
        with global_generators_kept():
            sample = evaluator.training_loaders().dataset[0]
            return torch.as_tensor(sample[0])[None]
    except (AttributeError, TypeError, LookupError, ValueError) as error:
        raise SpaceError(
            "no example input was found in the training data; pass example_inputs=tensor."
        ) from error


def write_front(history: History, space: Space, supernet: Supernet, directory: Path) -> Front:
    """Write picture, table and a bundle for each point of the front; return it."""
    folder = directory / "bundles"
    folder.mkdir(exist_ok=True)
    bundles = []
    for rank, trial in enumerate(history.pareto(), 1):
        own = {x: v for x, v in trial.arch.items() if x in supernet.decision_space.by_label}
        metadata = {"metrics": dict(trial.metrics), "space": type(space).__name__}
        bundles.append(save_bundle(supernet.freeze(own), trial.arch, folder / str(rank), metadata=metadata))
    front = Front(history, directory, tuple(bundles))
    rows = [{"metrics": dict(trial.metrics), "architecture": dict(trial.arch)} for trial in front.trials]
    write_atomic(directory / "front.yaml", dump_yaml(rows).encode())
    front.draw().save(directory / "front.svg")
    return front
