"""Seeding of a run, epoch by epoch, so that a resumed run draws the same numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import lightning.pytorch as pl
import torch

from ..randomness import seed_from, seed_global_generators


class SeededEpochs(pl.Callback):
    """A callback that seeds every epoch from (seed, stage, epoch, rank).

    A checkpoint taken between two epochs then needs no generator state: dropout, augmentation and the order
    of batches of an epoch are the same whether the run reached it or resumed there. Generators that loaders
    own are also seeded.

    Args:
        seed: Seed of the run.
        stage: Number of the stage, from 0.
    """

    def __init__(self, seed: int, stage: int = 0) -> None:
        self.seed = seed
        self.stage = stage
        self._begun = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that this process has trained no epoch yet."""
        self._begun = False

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seed, then let loaders draw their order."""
        entropy = (self.seed, self.stage, trainer.current_epoch, trainer.global_rank)
        seed_global_generators(*entropy)
        loaders = [*_flat(trainer.train_dataloader), *_flat(trainer.val_dataloaders)]
        for position, generator in enumerate(_own_generators(loaders)):
            generator.manual_seed(seed_from(*entropy, position))
        if not self._begun:
            # Lightning made the first epoch's iterator before this hook and makes later ones after it; make
            # the first again, so that every epoch draws the order of its batches after seeding.
            fetcher: Any = trainer.fit_loop._data_fetcher
            iter(fetcher)
            self._begun = True


def _flat(loaders: Any) -> Iterator[Any]:
    if isinstance(loaders, dict):
        loaders = list(loaders.values())
    if isinstance(loaders, list | tuple):
        for loader in loaders:
            yield from _flat(loader)
    elif loaders is not None:
        yield loaders


def _own_generators(loaders: Iterable[Any]) -> list[torch.Generator]:
    found: dict[int, torch.Generator] = {}
    for loader in loaders:
        sampler = getattr(loader, "sampler", None)
        for holder in (loader, sampler):
            generator = getattr(holder, "generator", None)
            if isinstance(generator, torch.Generator):
                found.setdefault(id(generator), generator)
    return list(found.values())
