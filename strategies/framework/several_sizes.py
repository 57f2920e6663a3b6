"""Strategies that train several sizes of a supernet on each batch; small ones learn from a large one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from spacelang import SpaceError
from spacelang.errors import require_integer
from spacelang.language import Architecture, Categorical, DecisionSpace
from spacelang.randomness import numpy_generator_from
from spacelang.supernet import MixedCell, MixedInput, MixedLayer, Supernet

from .paths import Measure, PathSampling, PathSearch, Unseen
from .search import Scored

Sizes: TypeAlias = Mapping[str, tuple[Any, ...]]
"""Candidates by label of the decisions that are sizes, largest first."""


def sizes(supernet: Supernet) -> dict[str, tuple[Any, ...]]:
    """Return the candidates of depths, and of arguments of layers that are numbers, largest first."""
    places = (child for child in supernet.modules() if isinstance(child, MixedLayer | MixedInput | MixedCell))
    numbered = {decision.label for place in places for decision in place.group.decisions}
    found = {}
    for label, decision in supernet.decision_space.by_label.items():
        values = list(decision.values()) if isinstance(decision, Categorical) else []
        numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
        if label not in numbered and values and len(numbers) == len(values):
            found[label] = tuple(sorted(numbers, reverse=True))
    return found


def with_sizes(space: DecisionSpace, chosen: Mapping[str, Any], rng: np.random.Generator) -> Architecture:
    """Return an architecture of chosen sizes, whose other decisions are drawn.

    Raises:
        SpaceError: constraints allow none.
    """
    arch = space.repaired(chosen, rng)
    if arch is None:
        given = ", ".join(f"{label}={value}" for label, value in chosen.items())
        raise SpaceError(f"the constraints of this space allow no architecture with {given:.300}.")
    return arch


def soft_cross_entropy(output: Tensor, teacher: Tensor) -> Tensor:
    """Return the cross entropy with the probabilities of a teacher, classes in the last dimension.

    L = mean of -sum_c softmax(teacher)_c log softmax(output)_c.

    Args:
        output: Logits, (..., classes).
        teacher: Logits of the same shape.
    """
    return -(teacher.softmax(-1) * output.log_softmax(-1)).sum(-1).mean()


@dataclass(frozen=True, kw_only=True)
class ElasticTraining(PathSampling):
    """Base of strategies that train several architectures on each batch, of which some learn from a teacher.

    The losses of a batch's architectures are added, and one backward pass has the gradients of all, so a step
    keeps the activations of all. Training metrics are those of the first, and so are metrics of validation
    during training. In the end the largest architecture, the smallest and random ones are compared, as far as
    `filter` accepts them. The largest and the smallest are trained whatever it says.

    Args:
        distance: Function of a network's output and its teacher's, by which the network learns; by default
            `soft_cross_entropy`. Of outputs that are tuples the first entries are compared.
        candidates: Number of random architectures compared at the end.
    """

    distance: Callable[[Tensor, Tensor], Tensor] = soft_cross_entropy
    candidates: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("candidates", self.candidates, least=0)

    @property
    def measurements(self) -> int:
        return self.candidates + 2

    def check(self, supernet: Supernet) -> None:
        super().check(supernet)
        if not sizes(supernet):
            raise SpaceError(
                f"{type(self).__name__} trains networks of several sizes, and this space has no depth, width "
                "or kernel size to choose. Use SPOS, or declare sizes with value_choice or Repeat."
            )

    def make_search(self, supernet: Supernet, previous: Any, **settings: Any) -> ElasticSearch:
        raise NotImplementedError(f"{type(self).__name__} must say which architectures a batch trains")


class ElasticSearch(PathSearch):
    """A search that trains several architectures on each batch.

    Subclasses say in `paths` which, and in `path_loss` by which loss.

    Attributes:
        sizes: Candidates of the sizes, largest first.
    """

    strategy: ElasticTraining

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sizes: Sizes = sizes(self.supernet)
        self._paths: list[Architecture] = []
        self._batch: tuple[Any, int] = None, 0
        self._call: Call | None = None
        self._seeing: RemovableHandle | None = None

    # -- what differs between strategies ---------------------------------------------------------------

    def paths(self) -> list[Architecture]:
        """Return the architectures to train on the next batch; the generator is `self.rng`."""
        raise NotImplementedError

    def path_loss(self, place: int, loss: Tensor, call: Call) -> Tensor:
        """Return the loss by which an architecture is trained.

        Args:
            place: Place among `paths`, from 0; they are trained in this order.
            loss: The module's own loss.
            call: Inputs and output of the supernet.
        """
        raise NotImplementedError

    def extremes(self) -> tuple[Architecture, Architecture]:
        """Return the largest and the smallest architecture of the sizes that are trained."""
        return self.of_size(lambda values: values[0]), self.of_size(lambda values: values[-1])

    # -- for kinds of search ---------------------------------------------------------------------------

    def of_size(self, pick: Callable[[tuple[Any, ...]], Any]) -> Architecture:
        """Return an architecture in which `pick` chose each size from its candidates; the rest is drawn."""
        chosen = {label: pick(values) for label, values in self.sizes.items()}
        return with_sizes(self.supernet.decision_space, chosen, self.rng)

    def random(self) -> Architecture:
        """Return a random architecture of the sizes that are trained."""
        return self.strategy.draw(self.supernet.decision_space, self.rng)

    @property
    def accepts(self) -> Callable[[Architecture], bool] | None:
        """Function that returns whether an architecture may be found; None for all."""
        return self.strategy.filter

    def rank(self, measure: Measure, generator: torch.Generator) -> list[Scored]:
        """Compare the largest, the smallest and random architectures, those that may be found."""
        self.rng = numpy_generator_from(generator)
        ends, count = iter(self.extremes()), self.strategy.measurements
        found = Unseen(self.accepts).take(count, lambda: next(ends, None) or self.random())
        if not found:
            raise SpaceError(f"filter rejected {10 * count} architectures in a row; loosen it.")
        return self.strategy.best_first((measure(arch), arch) for arch in found)

    # -- Lightning hooks -------------------------------------------------------------------------------

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Train on the losses of all architectures of a batch."""
        super().on_fit_start(trainer, pl_module)
        self.training.replace_loss(self._joint_loss)
        self._seeing = self.supernet.register_forward_hook(self._see, with_kwargs=True)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Select the first architecture to train."""
        self._batch = batch, batch_idx
        self._paths = self.paths()
        self.supernet.select(self._paths[0], exact=False)

    def let_go(self) -> None:
        """Let go of the Trainer and of the supernet's calls."""
        super().let_go()
        if self._seeing is not None:
            self._seeing.remove()
        self._call, self._batch = None, (None, 0)

    def _see(self, supernet: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if torch.is_grad_enabled():
            self._call = Call(args, kwargs, output[0] if isinstance(output, tuple) else output)

    def _joint_loss(self, loss: Tensor) -> Tensor:
        """Return the sum of the losses of all architectures of the batch, whose first has run."""
        if not torch.is_grad_enabled():  # a validation_step that calls training_step
            return loss
        total = self._own_loss(0, loss)
        for place, arch in enumerate(self._paths[1:], 1):
            self.supernet.select(arch, exact=False)
            total = total + self._own_loss(place, self.training.loss(*self._batch))
        self.supernet.select(self._paths[0], exact=False)
        return total

    def _own_loss(self, place: int, loss: Tensor) -> Tensor:
        assert self._call is not None  # the module called the supernet
        return self.path_loss(place, loss, self._call)


@dataclass(frozen=True)
class Call:
    """A call of the supernet.

    Args:
        args, kwargs: Its inputs.
        output: Its output; of a tuple the first entry.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Tensor
