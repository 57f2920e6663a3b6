"""Loaders, and functions that make them for each fit, with the batch size that a trial chose."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from spacelang.errors import SpaceError, require_integer

from .training_module import require_possible

Loaders: TypeAlias = Any
"""Whatever Trainer.fit takes, a loader or a list or dict of loaders; functions that make loaders, too."""


def made_loaders(loaders: Loaders, batch_size: int | None) -> Loaders:
    """Return loaders, with those that a function makes made now.

    Args:
        loaders: Loaders or functions; one that has a parameter `batch_size` gets it.
        batch_size: Batch size; None to leave it to the functions.
    """
    if isinstance(loaders, dict):
        return {name: made_loaders(part, batch_size) for name, part in loaders.items()}
    if isinstance(loaders, list | tuple):
        return type(loaders)(made_loaders(part, batch_size) for part in loaders)
    if not is_factory(loaders):
        return loaders
    return loaders() if batch_size is None or not _sizes(loaders) else loaders(batch_size=batch_size)


def is_factory(loader: object) -> bool:
    """Return whether a function makes the loader."""
    return callable(loader) and not isinstance(loader, Iterable)


def check_loaders(loaders: Loaders, batch_size: Any) -> None:
    """Raise unless a batch size is given where functions need it, and only there.

    Raises:
        SpaceError: No function takes the batch size, one needs it and there is none, or it is no size.
    """
    parameters = [parameter for factory in _factories(loaders) for parameter in _sizes(factory)]
    if batch_size is None:
        if any(parameter.default is parameter.empty for parameter in parameters):
            raise SpaceError("the function that makes a loader needs a batch size; pass batch_size=.")
        return
    require_possible(require_integer, "batch_size", batch_size, least=1)
    if not parameters:
        raise SpaceError(
            f"batch_size={batch_size} reaches no loader; pass it to the DataLoader, or a function that makes "
            "one: train_dataloaders=lambda batch_size: DataLoader(data, batch_size=batch_size)."
        )


def _factories(loaders: Loaders) -> Iterator[Callable[..., Any]]:
    if isinstance(loaders, list | tuple | dict):
        for part in loaders.values() if isinstance(loaders, dict) else loaders:
            yield from _factories(part)
    elif is_factory(loaders):
        yield loaders


def _sizes(factory: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the parameter `batch_size` of a function, if it has one."""
    parameters = inspect.signature(factory).parameters.values()
    return [parameter for parameter in parameters if parameter.name == "batch_size"]
