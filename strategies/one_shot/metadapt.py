"""MetAdapt: the mixture of operations adapts to each few-shot task."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from spacelang import SpaceError
from spacelang.errors import require_integer
from spacelang.supernet import Group, Supernet

from ..framework import Differentiable, GradientSearch, Mixture, Moment, Softmax, untouched


@dataclass(frozen=True, kw_only=True)
class MetAdapt(Differentiable):
    """Search for a mixture of operations that small controllers adapt to each task.

    A batch is a task: an episode with a support set, as `evaluators.FewShot` trains on. Its logits are
    alpha_task = alpha + W z + b, where z is the mean embedding of the support set, and each edge or choice
    has a controller (W, b) that begins at zero. The mixture is softmax(alpha_task) as in DARTS, in training
    and in validation. It is never made discrete: after the search `search.adapt(images)` sets the mixture of
    a new task in the supernet, which is the result. What is derived is the architecture of alpha alone.

    Weights step on training episodes, and alpha and controllers on validation episodes, or all three on
    training episodes with `together=True`.

    Not checked against the authors' code, of which none is public. Ours are: controllers of one linear layer;
    z is the output of the whole network under softmax(alpha), averaged over space and images, in evaluation
    mode and without gradient. A batch without `support` is a task whose support are its inputs.

    Args:
        embedding: Number of features that the network returns.
        together: Whether weights, alpha and controllers step along the gradient of one loss.
        learning_rate, betas, weight_decay, init_scale: Settings as in `Differentiable`, of alpha and
            controllers; the scale is that of the first alpha.
        warmup_epochs, update_every, weights_first, gradient_clip: See `Differentiable`.

    Source: Doveh et al. 2020, arXiv:1912.00412.
    """

    embedding: int
    together: bool = False

    def __post_init__(self) -> None:
        require_integer("embedding", self.embedding, least=1)
        super().__post_init__()

    @property
    def relaxation(self) -> TaskSoftmax:
        return TaskSoftmax(embedding=self.embedding)

    @property
    def single_level(self) -> bool:
        return self.together

    def make_search(self, supernet: Supernet, previous: Any, **settings: Any) -> MetAdaptSearch:
        return MetAdaptSearch(self, supernet, **settings)


@dataclass(frozen=True)
class TaskSoftmax(Softmax):
    """Softmax of the logits of a task, where the logits of a group are alpha and its controllers.

    Their columns are those of alpha, then b, then the rows of W one after another. Derivation ranks
    softmax(alpha), as if there were no task.

    Args:
        none: See `Softmax`.
        embedding: Number of features of z.
        task: Mean embedding z of the task's support set, (embedding,); None for no task.
    """

    embedding: int = 1
    task: Tensor | None = field(default=None, compare=False)

    def shape(self, group: Group) -> tuple[int, int]:
        rows, columns = super().shape(group)
        return rows, columns * (2 + self.embedding)

    def initial(self, group: Group, scale: float, generator: torch.Generator) -> Tensor:
        rows, columns = super().shape(group)
        alpha = scale * torch.randn(rows, columns, generator=generator)
        return torch.nn.functional.pad(alpha, (0, columns * (1 + self.embedding)))

    def parts(self, group: Group, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return alpha and b, (rows, columns), and W, (rows, columns, embedding)."""
        rows, columns = super().shape(group)
        alpha, b, w = torch.split(logits, [columns, columns, columns * self.embedding], dim=1)
        return alpha, b, w.reshape(rows, columns, self.embedding)

    def probabilities(self, group: Group, logits: Tensor) -> Tensor:
        return super().probabilities(group, self.parts(group, logits)[0])

    def mixture(self, group: Group, logits: Tensor, moment: Moment | None = None) -> Mixture:
        alpha, b, w = self.parts(group, logits)
        adapted = alpha if self.task is None else alpha + w @ self.task.to(w) + b
        return Softmax(self.none).mixture(group, adapted, moment)


class MetAdaptSearch(GradientSearch):
    """A search whose mixtures are those of the task of the present batch.

    Args:
        strategy, supernet, settings: See `GradientSearch`.
    """

    strategy: MetAdapt
    relaxation: TaskSoftmax

    def adapt(self, support: Tensor) -> None:
        """Set the mixture of a task in the supernet.

        Args:
            support: Inputs of its support set, (images, ...).
        """
        self.face(support)
        self.mix("weights")

    def face(self, support: Tensor) -> None:
        """Let mixtures from now on be those of a task.

        z is the mean output of the network for the support set under softmax(alpha).

        Raises:
            SpaceError: the network returns another number of features than the strategy says.
        """
        self.relaxation = replace(self.relaxation, task=None)
        with torch.no_grad(), untouched(self.supernet, self.supernet):
            self.mix("weights")
            output = self.supernet.eval()(support)
        features = output.flatten(2).mean(dim=2) if output.dim() > 2 else output  # (images, features)
        if features.dim() != 2 or features.shape[1] != self.strategy.embedding:
            raise SpaceError(
                f"MetAdapt(embedding={self.strategy.embedding}), and the network returned "
                f"{tuple(output.shape)}; set embedding to the number of features that it returns."
            )
        self.relaxation = replace(self.relaxation, task=features.mean(dim=0))

    def loss(self, batch: Any, batch_idx: int = 0) -> Tensor:
        """Return the loss of an episode under the mixture of its task; see `GradientSearch`."""
        self.face(support_of(batch))
        return super().loss(batch, batch_idx)

    def mix_weights(self, batch: Any, batch_idx: int) -> None:
        """Set the mixture of a training episode."""
        self.face(support_of(batch))
        super().mix_weights(batch, batch_idx)

    def on_validation_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Set the mixture of a validation episode."""
        self.adapt(support_of(batch))

    on_test_batch_start = on_validation_batch_start


def support_of(batch: Any) -> Tensor:
    """Return the inputs of the support set of an episode; of another batch its inputs."""
    support: Tensor = batch.support if hasattr(batch, "support") else batch[0]
    return support
