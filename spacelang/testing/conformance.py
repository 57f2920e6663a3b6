"""The conformance kit: the promises of every strategy, as one check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..experiment import OneShotStrategy
from ..space import ModelSpace
from ..trials import MultiTrialStrategy
from .multi_trial_promises import check_multi_trial
from .one_shot_promises import check_one_shot
from .promises import Conformance, require
from .toy_spaces import toy_spaces


def check_strategy(
    strategy: Any, *, epochs: int = 3, trials: int = 24, spaces: Mapping[str, ModelSpace] | None = None
) -> Conformance:
    """Check that a strategy keeps the promises of this library; it takes seconds on a CPU.

    On every toy space (`toy_spaces`, or those given) a strategy either refuses with a `SpaceError` before
    anything is trained, or a search must leave the space and the strategy as they were.

    One-shot strategies are searched with through `Experiment`, and must

    - keep architecture parameters out of the network's,
    - derive valid architectures, five without duplicates, of which the first is the best,
    - have distributions whose rows sum to one, if it is differentiable,
    - give, frozen, what the supernet gives with that architecture selected,

    and on the first space that has a cell it takes (else the first it takes)

    - end in the same bits from the same seed,
    - end in the same bits when it was interrupted in the last epoch and resumed,
    - checkpoint plain data alone, which `torch.load(weights_only=True)` reads.

    Multi-trial strategies are asked for architectures whose values come from a hash and rise with every
    epoch; some fail, give NaN or break a constraint; on spaces of up to 30 architectures for more than twice
    as many. They must

    - propose valid architectures, notes and overrides of plain values, and leave the history as it was,
    - propose the same from the same seed, whatever was drawn from global generators,
    - propose the same when they begin again from the history, with one trial running or with three,
    - end a search only with `Exhausted`, which says why,
    - if they stop trials, say the same however often they are asked, also when they begin again from the
      history, and let some trials run to their end.

    Args:
        strategy: Settings with which something happens within `epochs` or `trials`.
        epochs: Epochs of a one-shot search, at least 2, in every stage.
        trials: Trials of a multi-trial search.
        spaces: Spaces by name, for a strategy that searches none of the toy spaces; a one-shot strategy must
            be able to train them on batches of the toy spaces.

    Returns:
        The spaces it searched and those it refused.

    Raises:
        AssertionError: a promise was broken; says which, and on which space.
    """
    before = repr(strategy)
    if isinstance(strategy, MultiTrialStrategy):
        result = check_multi_trial(strategy, trials, spaces or toy_spaces())
    else:
        require(
            isinstance(strategy, OneShotStrategy),
            "it must have start, or else stages, samples_paths, supernet and attach",
        )
        result = check_one_shot(strategy, epochs, spaces or toy_spaces())
    require(repr(strategy) == before, "the strategy's settings changed during a search")
    return result
