"""Choices outside a model: values that an evaluator keeps as attributes, searched together with a space.

`Tunable` belongs to the language and not to the protocols of evaluators (`spacelang.trials`): it finds,
evaluates and freezes value choices by the language's own means, and settings within settings may be tunable.
"""

from __future__ import annotations

import copy
from abc import ABC
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Self

from torch import nn

from ..errors import SpaceError, quoted
from .base import Space
from .context import count_as_used
from .decision_space import refuse
from .decisions import Decision, problem
from .primitive import frozen_copy
from .values import Value


class Tunable(ABC):  # noqa: B024  (abstract in that classes which do not inherit it may be one)
    """Something whose settings may be value choices, such as an evaluator with a learning rate to search.

    Whatever has these two methods is one. A class that inherits them need only keep its settings as
    attributes: choices are found in these, in lists, tuples, dicts and `functools.partial`s of them, in the
    attributes of modules, and in other tunable objects.

    >>> from spacelang import value_choice
    >>> class Training(Tunable):
    ...     def __init__(self, learning_rate: float) -> None:
    ...         self.learning_rate = learning_rate
    >>> training = Training(2 * value_choice([0.1, 0.2], label="lr"))
    >>> training.decisions()
    (Categorical(label='lr', candidates=(0.1, 0.2), prior=None),)
    >>> training.decided({"lr": 0.2, "layer": "conv"}).learning_rate
    0.4
    """

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        methods = (getattr(other, name, None) for name in ("decisions", "decided"))
        return True if cls is Tunable and all(map(callable, methods)) else super().__subclasshook__(other)

    def decisions(self) -> tuple[Decision, ...]:
        """Return the decisions that are open; none once they are decided."""
        return _merged(map(_decisions_in, vars(self).values()))

    def decided(self, arch: Mapping[str, Any]) -> Self:
        """Return a shallow copy with the values that `arch` chose; further labels are ignored.

        Inside `model_context` the labels used here count as asked for.

        Raises:
            SpaceError: `arch` lacks a label, or a value is no candidate.
        """
        decisions = self.decisions()
        problems = [text for decision in decisions if (text := problem(decision, arch))]
        refuse(problems, f"the architecture for the {type(self).__name__}")
        count_as_used(decision.label for decision in decisions)
        twin = copy.copy(self)
        vars(twin).update({name: _decided(value, arch) for name, value in vars(self).items()})
        return twin


def open_decisions(thing: object) -> tuple[Decision, ...]:
    """Return the decisions of an evaluator; none if it is not `Tunable`."""
    return thing.decisions() if isinstance(thing, Tunable) else ()


def require_decided(thing: object, why: str) -> None:
    """Refuse an evaluator whose settings are still to be chosen.

    Args:
        thing: The evaluator.
        why: The reason, and the beginning of a sentence that "evaluator.decided(...)" completes.

    Raises:
        SpaceError: It has open decisions.
    """
    decisions = open_decisions(thing)
    if decisions:
        first = {decision.label: next(iter(decision.values())) for decision in decisions}
        raise SpaceError(
            f"{type(thing).__name__} leaves {quoted(first)} to be chosen. {why} evaluator.decided({first!r})."
        )


def _decisions_in(attribute: object) -> tuple[Decision, ...]:
    if isinstance(attribute, nn.Module) and not isinstance(attribute, Tunable):
        if isinstance(attribute, Space):
            return ()  # what is open in a space is the space's
        return _merged(_decisions_of(vars(module)) for module in attribute.modules())
    return _decisions_of(attribute)


def _decisions_of(value: object) -> tuple[Decision, ...]:
    if isinstance(value, Value):
        return value.decisions()
    if isinstance(value, list | tuple):
        return _merged(map(_decisions_of, value))
    if isinstance(value, dict):
        return _merged(map(_decisions_of, value.values()))
    if isinstance(value, partial):
        return _decisions_of([value.args, value.keywords])
    return open_decisions(value)


def _merged(groups: Iterable[tuple[Decision, ...]]) -> tuple[Decision, ...]:
    """Return each decision once; different ones with one label stay, for a space they join to refuse."""
    return tuple(dict.fromkeys(decision for group in groups for decision in group))


def _decided(attribute: Any, arch: Mapping[str, Any]) -> Any:
    if _decisions_in(attribute) and isinstance(attribute, nn.Module) and not isinstance(attribute, Tunable):
        return frozen_copy(attribute, arch)
    return _evaluated(attribute, arch)


def _evaluated(value: Any, arch: Mapping[str, Any]) -> Any:
    if not _decisions_of(value):
        return value
    if isinstance(value, Value):
        return value.evaluate(arch)
    if isinstance(value, list | tuple):
        return type(value)(_evaluated(item, arch) for item in value)
    if isinstance(value, dict):
        return {key: _evaluated(item, arch) for key, item in value.items()}
    if isinstance(value, partial):
        return partial(value.func, *_evaluated(value.args, arch), **_evaluated(value.keywords, arch))
    return value.decided(arch)
