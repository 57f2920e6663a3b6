"""Extras: what may be added to any strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from spacelang import SpaceError
from spacelang.supernet import Group, Supernet

from ._relaxation import Mixture, Moment

if TYPE_CHECKING:
    from ._gradient_search import GradientSearch
    from ._oneshot import OneShot
    from ._search import OneShotSearch


class Extra:
    """Base of extras; each method does nothing, a subclass replaces those it needs.

    An extra is a frozen dataclass of settings: what it must remember, it records in the search.

    Attributes:
        drops_candidates: whether a step may leave candidates, and so weights, unused.
    """

    drops_candidates: ClassVar[bool] = False

    def check(self, strategy: OneShot, supernet: Supernet) -> None:
        """Raise a `SpaceError`, before training, where this extra does not work."""

    def require_probabilities(self, strategy: OneShot) -> None:
        """Raise a `SpaceError` for a strategy without probabilities of candidates."""
        from ._differentiable import Differentiable

        if not isinstance(strategy, Differentiable):
            raise SpaceError(
                f"{type(self).__name__} reads the probabilities of candidates, and {type(strategy).__name__} "
                "learns none; use it with a differentiable strategy, such as DARTS()."
            )

    def epoch_start(self, search: OneShotSearch) -> None:
        """Called before the first batch of an epoch, `search.moment.epoch`."""

    def mixture(self, group: Group, mixture: Mixture, moment: Moment) -> Mixture:
        """Mixture to compute with in place of `mixture`; random numbers from `moment.generator`."""
        return mixture

    def transform(self, candidate: nn.Module, output: Tensor, moment: Moment) -> Tensor:
        """What a candidate's output becomes before it is weighted; only where it was overridden."""
        return output

    def objective(self, loss: Tensor, search: GradientSearch) -> Tensor:
        """Loss whose gradient the logits follow, from the validation loss."""
        return loss

    def epoch_end(self, search: OneShotSearch) -> None:
        """Called after the training of an epoch, when its probabilities are in `search.history`."""


def check_ends(name: str, ends: object) -> None:
    """Raise a `SpaceError` unless `ends` are two numbers: of the first and of the last epoch."""
    if not isinstance(ends, tuple | list) or [isinstance(x, int | float) for x in ends] != [True, True]:
        raise SpaceError(f"{name}={ends!r}; expected two numbers, for the first and for the last epoch.")
