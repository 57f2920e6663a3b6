"""`subset`: which samples are seen, in which order, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from spacelang.errors import SpaceError
from spacelang.evaluators import Classification, Functional, subset

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")

NUMBERS = TensorDataset(torch.arange(100))


def evaluator(train: Any) -> Classification:
    return Classification(train_dataloaders=train, max_epochs=1)


def seen(loader: Any) -> list[int]:
    return [int(number) for (batch,) in loader for number in batch]


def taken(train: Any, fraction: float, seed: int = 0) -> list[int]:
    return seen(subset(evaluator(train), fraction, seed=seed).train_dataloaders)


def test_a_fraction_is_drawn_once() -> None:
    loader = DataLoader(NUMBERS, batch_size=8)
    first = taken(loader, 0.25)
    assert len(first) == len(set(first)) == 25
    assert first == sorted(first) == taken(loader, 0.25)  # the order of the data, and the same each time
    assert set(first) != set(taken(loader, 0.25, seed=1))
    assert taken(loader, 1) == list(range(100))
    assert len(taken(loader, 0.001)) == 1


def test_a_shuffling_loader_shuffles_the_part() -> None:
    generator = torch.Generator().manual_seed(3)
    reduced = subset(evaluator(DataLoader(NUMBERS, shuffle=True, generator=generator)), 0.5).train_dataloaders
    first, second = seen(reduced), seen(reduced)
    assert first != second
    assert set(first) == set(second) == set(taken(DataLoader(NUMBERS), 0.5))


def test_settings_are_kept() -> None:
    def negative(rows: list[tuple[Tensor, ...]]) -> tuple[Tensor]:
        return (torch.stack([-row[0] for row in rows]),)

    loader = DataLoader(NUMBERS, batch_size=8, drop_last=True, collate_fn=negative)
    reduced = subset(evaluator(loader), 0.3).train_dataloaders
    assert [len(batch) for (batch,) in reduced] == [8, 8, 8]
    assert max(seen(reduced)) <= 0


def test_of_a_random_subset_a_part_is_taken() -> None:
    numbers = taken(DataLoader(NUMBERS, sampler=SubsetRandomSampler(range(0, 100, 2))), 0.2)
    assert len(set(numbers)) == 10
    assert all(number % 2 == 0 for number in numbers)


def test_of_several_loaders_a_part_of_each() -> None:
    loader = DataLoader(NUMBERS)
    both = subset(evaluator({"a": loader, "b": [loader]}), 0.1).train_dataloaders
    assert len(seen(both["a"])) == len(seen(both["b"][0])) == 10


def test_it_trains_on_the_part_and_validates_on_all(
    data: Any, quiet: Any, make_net: Callable[..., Any]
) -> None:
    """256 digits in batches of 32: a quarter makes 2 steps of an epoch's 8."""
    whole = Classification(learning_rate=0.01, max_epochs=2, **data, **quiet)
    part = subset(whole, 0.25)
    assert type(part) is Classification
    assert part.val_dataloaders is whole.val_dataloaders
    steps, metrics = [], []
    for some in (whole, part):
        torch.manual_seed(0)
        trainer = some.fit(make_net())
        steps.append(trainer.global_step)
        metrics.append(sorted(trainer.callback_metrics))
    assert steps == [16, 4]
    assert metrics[0] == metrics[1]
    assert whole.train_dataloaders is data["train_dataloaders"]


class Stream(IterableDataset[int]):
    def __iter__(self) -> Any:
        return iter(range(9))


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (DataLoader(Stream()), "a data set with a length"),
        ([1, 2, 3], "takes a DataLoader"),
        (DataLoader(NUMBERS, sampler=WeightedRandomSampler([1.0] * 100, 10)), "has a WeightedRandomSampler"),
        (
            DataLoader(
                NUMBERS, batch_sampler=type("Own", (BatchSampler,), {})(SequentialSampler(NUMBERS), 2, False)
            ),
            "batches: Own",
        ),
        (
            DataLoader(NUMBERS, batch_size=64, drop_last=True),
            "leaves 10 of 100 samples, less than one batch of 64",
        ),
    ],
)
def test_refused_loaders(loader: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        subset(evaluator(loader), 0.1)


def test_refusals(data: Any) -> None:
    for fraction in (0, 1.5, True, float("nan"), "half"):
        with pytest.raises(SpaceError, match="must be a number above 0 and of at most 1"):
            subset(Classification(**data), fraction)  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match="got a Functional"):
        subset(Functional(len), 0.5)  # type: ignore[type-var]
    with pytest.raises(SpaceError, match=r"this evaluator has none\. For the data of a datamodule"):
        subset(Classification(datamodule=LightningDataModule()), 0.5)
