"""Episodes: few-shot tasks drawn from the classes of a data set."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from spacelang.errors import SpaceError, require_integer
from spacelang.randomness import torch_generator

from .splits import Sample


class Episode(NamedTuple):
    """A task: to classify queries by a few labelled samples of classes that are new.

    Attributes:
        support: Labelled samples, (ways * shots, ...).
        support_labels: Class of each, from 0, (ways * shots,).
        queries: Samples to classify, (ways * queries, ...).
        query_labels: Class of each, (ways * queries,).
    """

    support: Tensor
    support_labels: Tensor
    queries: Tensor
    query_labels: Tensor


class Episodes(Dataset[Episode]):
    """A data set of episodes: each draws some classes, and samples of them for support and queries.

    An episode depends on its number and the seed alone. `DataLoader(episodes, batch_size=None)` gives one at
    a time. For validation and test use classes that training does not see:

        parts = {"train": range(4), "val": range(4, 7), "test": range(7, 10)}
        data = {part: Episodes(splits.train, classes=classes) for part, classes in parts.items()}

    Args:
        dataset: Samples (x, label), of which all x have one shape.
        classes: Labels to draw from, at least `ways`.
        ways: Classes of an episode.
        shots: Labelled samples of each.
        queries: Samples of each to classify.
        count: Number of episodes.
        seed: Seeds the draws.

    Raises:
        SpaceError: There are too few classes, or a class has fewer than `shots + queries` samples.
    """

    def __init__(
        self,
        dataset: Dataset[Sample],
        *,
        classes: Iterable[int],
        ways: int = 3,
        shots: int = 5,
        queries: int = 10,
        count: int = 100,
        seed: int = 0,
    ) -> None:
        for name, value, least in (("ways", ways, 2), ("shots", shots, 1), ("queries", queries, 1)):
            require_integer(name, value, least=least)
        require_integer("count", count, least=1)
        require_integer("seed", seed, least=0)
        wanted = list(dict.fromkeys(classes))
        if len(wanted) < ways:
            raise SpaceError(f"classes={wanted} are fewer than ways={ways}.")
        xs, labels = zip(*(dataset[i] for i in range(len(dataset))), strict=True)  # type: ignore[arg-type]
        self._x = torch.stack(xs)
        self._by_class = [
            torch.tensor([place for place, label in enumerate(labels) if int(label) == each])
            for each in wanted
        ]
        for label, places in zip(wanted, self._by_class, strict=True):
            if len(places) < shots + queries:
                raise SpaceError(
                    f"class {label} has {len(places)} samples; expected at least {shots + queries}, for "
                    f"shots={shots} and queries={queries}."
                )
        self.ways, self.shots, self.queries, self.count, self.seed = ways, shots, queries, count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Episode:
        if not 0 <= index < self.count:
            raise IndexError(index)
        generator = torch_generator(self.seed, index)
        chosen = torch.randperm(len(self._by_class), generator=generator)[: self.ways].tolist()
        support, queries = [], []
        for label in chosen:
            places = self._by_class[label]
            drawn = places[torch.randperm(len(places), generator=generator)[: self.shots + self.queries]]
            support.append(drawn[: self.shots])
            queries.append(drawn[self.shots :])
        labels = torch.arange(self.ways)
        return Episode(
            self._x[torch.cat(support)],
            labels.repeat_interleave(self.shots),
            self._x[torch.cat(queries)],
            labels.repeat_interleave(self.queries),
        )
