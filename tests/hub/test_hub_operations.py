"""Operations: shapes, closed-form parameter counts, numbers worked out by hand, drop path."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from spacelang import SpaceError
from spacelang.hub.operations import cell_operations as ops

CONVOLUTIONS = [name for name in ops.DARTS_OPERATIONS if "conv" in name]


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def closed_form(name: str, channels: int, stride: int) -> int:
    """Return the parameters of an operation of the evaluation network, from the paper's definitions."""
    once = int(name[-1]) ** 2 * channels + channels**2 + 2 * channels if "conv" in name else 0
    if name == "skip_connect":
        return channels**2 + 2 * channels if stride == 2 else 0
    return 2 * once if name.startswith("sep") else once


@pytest.mark.parametrize("name", ops.DARTS_OPERATIONS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("affine", [False, True])
def test_shapes_and_counts(name: str, stride: int, affine: bool) -> None:
    operation = ops.make_operation(name, 6, stride, affine=affine, drop_path=0.0 if affine else None)
    norms = [module for module in operation.modules() if isinstance(module, nn.BatchNorm2d)]
    without = 0 if affine else 2 * 6 * (2 if name.startswith("sep") else 1)
    expected = closed_form(name, 6, stride)
    assert count(operation) == max(0, expected - without)
    assert all(norm.affine is affine for norm in norms)
    for size in (8, 7, 1):
        x = torch.randn(3, 6, size, size)
        assert operation(x).shape == (3, 6, math.ceil(size / stride), math.ceil(size / stride))


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("drop_path", [None, 0.0])
def test_beginnings_can_be_shared(affine: bool, drop_path: float | None) -> None:
    for name in CONVOLUTIONS:
        operation = ops.make_operation(name, 4, 1, affine=affine, drop_path=drop_path)
        assert type(operation) is nn.Sequential
        assert type(operation[0]) is nn.ReLU
        assert not operation[0].inplace
    reduce = ops.make_operation("skip_connect", 4, 2, affine=affine, drop_path=drop_path)
    assert type(reduce) is nn.Sequential
    assert type(reduce[0]) is nn.ReLU
    assert type(ops.make_operation("skip_connect", 4, 1, affine=affine, drop_path=drop_path)) is nn.Identity


@pytest.mark.parametrize("name", ["max_pool_3x3", "avg_pool_3x3"])
def test_pools_are_normalised_in_the_search_network_only(name: str) -> None:
    search = ops.make_operation(name, 4, 2, affine=False)
    assert [type(m) for m in search][1:] == [nn.BatchNorm2d]
    assert not search[1].affine
    plain = ops.make_operation(name, 4, 2, affine=True)
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(search[0](x), plain(x))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in plain.modules())


def test_average_pool_leaves_padding_out() -> None:
    assert torch.equal(ops.avg_pool(1, 1, True)(torch.ones(1, 1, 4, 4)), torch.ones(1, 1, 4, 4))


@pytest.mark.parametrize("size", [4, 5])
def test_factorized_reduce_samples_even_and_odd_pixels(size: int) -> None:
    layer = ops.OffsetConvs(1, 2)
    nn.init.ones_(layer.conv0.weight)
    nn.init.ones_(layer.conv1.weight)
    x = torch.arange(1.0, size * size + 1).view(1, 1, size, size)
    half = math.ceil(size / 2)
    shifted = torch.zeros(half, half)
    shifted[: size // 2, : size // 2] = x[0, 0, 1::2, 1::2]
    assert torch.equal(layer(x)[0, 0], x[0, 0, ::2, ::2])
    assert torch.equal(layer(x)[0, 1], shifted)


def test_odd_channels_are_refused() -> None:
    with pytest.raises(SpaceError, match="even number of channels, got 5"):
        ops.make_operation("skip_connect", 5, 2, affine=True)
    with pytest.raises(SpaceError, match="even width, got width=15"):
        ops.imagenet_stems(3, 15)


def test_dilated_convolution_reaches_two_pixels_further() -> None:
    operation = ops.dil_conv(1, 1, True, kernel=5).eval()
    for parameter in operation.parameters():
        nn.init.ones_(parameter)
    impulse = torch.zeros(1, 1, 11, 11)
    impulse[0, 0, 5, 5] = 1
    reached = (operation(impulse) - operation(torch.zeros_like(impulse)))[0, 0].nonzero()
    assert reached.min(0).values.tolist() == [1, 1]
    assert reached.max(0).values.tolist() == [9, 9]
    assert len(reached) == 25


def test_unknown_operations_are_named() -> None:
    with pytest.raises(SpaceError, match=r"operation='sep_conv_9x9' must be one of.*Closest: 'sep_conv_"):
        ops.make_operation("sep_conv_9x9", 4, 1, affine=True)
    for wrong in ((), "sep_conv_3x3", ("skip_connect", "skip_connect"), (3,), None, [["skip_connect"]]):
        with pytest.raises(SpaceError):
            ops.check_operations(wrong)


@pytest.mark.parametrize(
    ("head", "size", "expected"),
    [
        (ops.cifar_auxiliary_head(16, 10, 8, True), 8, 16 * 128 + 256 + 393216 + 1536 + 769 * 10),
        (ops.cifar_auxiliary_head(16, 10, 2, True), 2, 16 * 128 + 256 + 393216 + 1536 + 769 * 10),
        (ops.cifar_auxiliary_head(16, 10, 1, True), 1, 16 * 128 + 256 + 393216 + 1536 + 769 * 10),
        (ops.cifar_auxiliary_head(16, 10, 16, True), 16, 16 * 128 + 256 + 393216 + 1536 + 769 * 10),
        (ops.imagenet_auxiliary_head(16, 10, True), 7, 16 * 128 + 256 + 393216 + 769 * 10),
    ],
)
def test_auxiliary_heads(head: nn.Module, size: int, expected: int) -> None:
    assert count(head) == expected
    assert head(torch.randn(2, 16, size, size)).shape == (2, 10)


def test_auxiliary_head_pools_as_published_where_the_map_is_8x8() -> None:
    pool = ops.cifar_auxiliary_head(1, 10, 8, True)[1]
    x = torch.randn(1, 1, 8, 8)
    means = [x[0, 0, i : i + 5, j : j + 5].mean() for i in (0, 3) for j in (0, 3)]
    torch.testing.assert_close(pool(x).flatten(), torch.stack(means))


def test_drop_path_keeps_what_the_generator_says() -> None:
    drop = ops.DropPath(0.3)
    x = torch.randn(64, 3, 2, 2)
    torch.manual_seed(5)
    y = drop(x)
    torch.manual_seed(5)
    kept = torch.empty(64, 1, 1, 1).bernoulli_(0.7).flatten().bool()
    assert 30 < kept.sum() < 60  # of 64, expected 44.8
    assert torch.equal(y[kept], x[kept] / 0.7)
    assert torch.equal(y[~kept], torch.zeros_like(y[~kept]))


def test_drop_path_keeps_the_expectation() -> None:
    torch.manual_seed(0)
    y = ops.DropPath(0.2)(torch.ones(20_000, 1, 1, 1))
    assert set(y.unique().tolist()) == {0.0, 1.25}
    assert y.mean().item() == pytest.approx(1.0, abs=3 * math.sqrt(0.2 / 0.8 / 20_000))


def test_drop_path_rests_in_evaluation_and_at_zero() -> None:
    x = torch.randn(4, 2, 3, 3)
    state = torch.get_rng_state()
    assert ops.DropPath(0.5).eval()(x) is x
    assert ops.DropPath(0.0)(x) is x
    assert torch.equal(torch.get_rng_state(), state)
    assert not ops.DropPath(0.5).state_dict()


@pytest.mark.parametrize("wrong", [-0.1, 1.0, 2, float("nan"), "0.2", None, True])
def test_drop_path_probability_is_checked(wrong: object) -> None:
    with pytest.raises(SpaceError, match=r"p=.* must be a number of at least 0 and below 1"):
        ops.DropPath(wrong)  # type: ignore[arg-type]
