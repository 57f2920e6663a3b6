"""Misspelt and foreign arguments are refused with the nearest name, or the place where that setting lives."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, ParamSpec, Self, TypeVar

from .errors import SpaceError, closest, quoted

P = ParamSpec("P")
R = TypeVar("R")

SYNONYMS = {
    "budget": "max_trials",
    "clip_grad": "gradient_clip_val",
    "constraints": "limits",
    "epochs": "max_epochs",
    "gpus": "devices",
    "grad_clip": "gradient_clip_val",
    "lr": "learning_rate",
    "n_trials": "max_trials",
    "num_epochs": "max_epochs",
    "num_trials": "max_trials",
    "progress_bar_refresh_rate": "enable_progress_bar",
    "random_state": "seed",
    "timeout": "max_duration",
    "wd": "weight_decay",
}
"""Other libraries' names of settings, and ours."""

PLACES = {
    "the evaluator, such as Classification": (
        "accelerator",
        "accumulate_grad_batches",
        "callbacks",
        "check_val_every_n_epoch",
        "criterion",
        "datamodule",
        "deterministic",
        "devices",
        "enable_progress_bar",
        "gradient_clip_algorithm",
        "gradient_clip_val",
        "label_smoothing",
        "learning_rate",
        "limit_train_batches",
        "limit_val_batches",
        "logger",
        "max_epochs",
        "max_steps",
        "optimizer",
        "precision",
        "sync_batchnorm",
        "train_dataloaders",
        "val_dataloaders",
        "weight_decay",
    ),
    "Experiment": (
        "directory",
        "executor",
        "inherit",
        "keep_weights",
        "ledger",
        "limits",
        "max_duration",
        "max_failures",
        "max_trials",
        "objectives",
        "seed",
        "study",
    ),
    "the DataLoader": ("batch_size", "num_workers", "shuffle"),
}
"""Settings by the place where they are set; an evaluator passes most of its own to Lightning's Trainer."""

_PLACE_OF = {name: place for place, names in PLACES.items() for name in names}


class ArgumentError(SpaceError, TypeError):
    """A call has an argument that its class or function does not have; the message says what to write."""


class KnownArguments:
    """Base class of classes that refuse arguments they do not have by an `ArgumentError`.

    >>> class Search(KnownArguments):
    ...     def __init__(self, *, learning_rate: float = 0.1) -> None: ...
    >>> Search(lr=1)
    Traceback (most recent call last):
    spacelang.arguments.ArgumentError: Search takes no argument 'lr'; write learning_rate=.
    >>> Search(gradient_clip_val=5.0)
    Traceback (most recent call last):
    spacelang.arguments.ArgumentError: Search takes no argument 'gradient_clip_val'; pass it to the evaluator,
    such as Classification.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        refuse_unknown(cls, kwargs)
        return super().__new__(cls)


def known_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function refuse arguments it does not have by an `ArgumentError`."""

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        refuse_unknown(function, kwargs)
        return function(*args, **kwargs)

    return checked


def refuse_unknown(
    target: Callable[..., object], given: Iterable[str], *, passed_to: Callable[..., object] | None = None
) -> None:
    """Raise unless a class or function has all these arguments.

    Args:
        target: The class or function that was called.
        given: Names of the keyword arguments.
        passed_to: Class or function that gets the arguments which `target` has no parameter for. None where
            `target` alone is meant; one that has `**kwargs` then takes any.

    Raises:
        ArgumentError: Names every unknown argument, and what to write instead.
    """
    own, accepts_any = _parameters(target)
    if accepts_any and passed_to is None:
        return
    known = own if passed_to is None else [*own, *_parameters(passed_to)[0]]
    name = getattr(target, "__name__", repr(target))
    problems = [f"{name} takes no argument {x!r}{_instead(x, known)}" for x in given if x not in known]
    if problems:
        raise ArgumentError("\n".join(problems)) from None


@contextmanager
def unknown_explained(target: Callable[..., object], given: Iterable[str]) -> Iterator[None]:
    """Inside, a `TypeError` that unknown arguments of `target` cause becomes an `ArgumentError`."""
    try:
        yield
    except TypeError:
        refuse_unknown(target, given)
        raise


def _parameters(target: Callable[..., object]) -> tuple[list[str], bool]:
    """Return the names of the parameters, and whether any other name is accepted."""
    parameters = inspect.signature(target).parameters.values()
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return named, any(p.kind is p.VAR_KEYWORD for p in parameters)


def _instead(name: str, known: list[str]) -> str:
    """Return the end of the message on an unknown argument."""
    meant = SYNONYMS.get(name, name)
    if meant in known:
        return f"; write {meant}=."
    if meant not in _PLACE_OF and not get_close_matches(name, known):
        meant = next(iter(get_close_matches(name, _PLACE_OF, n=1, cutoff=0.8)), meant)
    if meant in _PLACE_OF:
        what = "it" if meant == name else f"{meant}="
        return f"; pass {what} to {_PLACE_OF[meant]}."
    few = f"; it takes {quoted(known)}" if len(known) <= 12 else ""
    return f"{few}.{closest(name, known)}"
