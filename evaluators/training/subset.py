"""Evaluator on a part of the training data."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import partial
from typing import Any, TypeVar

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
)

from spacelang.errors import SpaceError, require_integer, require_number, short
from spacelang.randomness import torch_generator

from .lightning_training import Lightning
from .loaders import Loaders, is_factory, made_loaders

E = TypeVar("E", bound=Lightning)

_SETTINGS = (
    "batch_size",
    "num_workers",
    "collate_fn",
    "pin_memory",
    "drop_last",
    "timeout",
    "worker_init_fn",
    "multiprocessing_context",
    "generator",
    "prefetch_factor",
    "persistent_workers",
)


def subset(evaluator: E, fraction: float, *, seed: int = 0) -> E:
    """Return the same evaluator on a part of its training data, drawn once; it validates on all data.

    With several training loaders, in a list or a dict, it is a part of each.

    Args:
        evaluator: A `Lightning` or `Classification` that has training loaders; it is not changed.
        fraction: Fraction of the samples, 0 < fraction <= 1, rounded to at least one sample.
        seed: Seed of the draw.

    Raises:
        SpaceError: The evaluator is of another kind, has its data from a datamodule, or reads them in an
            order that a part cannot keep; the fraction is out of range.
    """
    if not isinstance(evaluator, Lightning):
        raise SpaceError(
            f"subset takes a Lightning or Classification evaluator; got a {type(evaluator).__name__}."
        )
    require_number("fraction", fraction, above=0, most=1)
    require_integer("seed", seed, least=0)
    if evaluator.train_dataloaders is None:
        raise SpaceError(
            "subset takes a part of train_dataloaders, and this evaluator has none. For the data "
            "of a datamodule or LightningModule, choose the part in its train_dataloader()."
        )
    reduced = copy(evaluator)
    reduced.train_dataloaders = _reduced(evaluator.train_dataloaders, fraction, seed)
    return reduced


def _reduced(loaders: Loaders, fraction: float, seed: int) -> Loaders:
    if isinstance(loaders, dict):
        return {name: _reduced(part, fraction, seed) for name, part in loaders.items()}
    if isinstance(loaders, list | tuple):
        return type(loaders)(_reduced(part, fraction, seed) for part in loaders)
    if is_factory(loaders):
        return partial(_reduced_and_made, loaders, fraction, seed)
    return _reduced_loader(loaders, fraction, seed)


def _reduced_and_made(
    factory: Loaders, fraction: float, seed: int, *, batch_size: int | None = None
) -> Loaders:
    return _reduced(made_loaders(factory, batch_size), fraction, seed)


def _reduced_loader(loader: Any, fraction: float, seed: int) -> DataLoader[Any]:
    indices, shuffle = _order(loader)
    count = max(1, round(fraction * len(indices)))
    if loader.drop_last and loader.batch_size is not None and count < loader.batch_size:
        raise SpaceError(
            f"fraction={fraction} leaves {count} of {len(indices)} samples, less than one batch of "
            f"{loader.batch_size}, and the loader drops incomplete batches."
        )
    drawn = torch.randperm(len(indices), generator=torch_generator(seed))[:count]
    kept = [indices[i] for i in sorted(drawn.tolist())]  # without shuffling they keep their order
    settings = {name: getattr(loader, name) for name in _SETTINGS}
    return DataLoader(Subset(loader.dataset, kept), shuffle=shuffle, **settings)


def _order(loader: Any) -> tuple[Sequence[int], bool]:
    """Return the samples that a loader reads, and whether it shuffles them."""
    if type(loader) is not DataLoader or isinstance(loader.dataset, IterableDataset):
        raise SpaceError(
            f"subset takes a DataLoader of a data set with a length; got {short(loader)}. "
            "Make the loader of the part yourself."
        )
    sampler = loader.sampler
    if loader.batch_sampler is None or type(loader.batch_sampler) is BatchSampler:
        if type(sampler) is SubsetRandomSampler:
            return list(sampler.indices), True
        dataset: Any = loader.dataset
        count = len(dataset)
        shuffles = type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == count
        if shuffles or type(sampler) is SequentialSampler:
            return range(count), shuffles
    raise SpaceError(
        f"the loader has a {type(sampler).__name__} (batches: {type(loader.batch_sampler).__name__}), whose "
        "order a part of the data cannot keep. Make the loader of the part yourself."
    )
