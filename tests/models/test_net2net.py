"""Net2Net: wider and deeper networks compute the same, to the last digits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spacelang import SpaceError
from spacelang.models import deeper, undo_norm, wider
from spacelang.models.net2net import _Copies, _read_copies, _widen_outputs, rectified


def draws() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class Joined(nn.Module):
    """A residual network with batch norms, a depthwise convolution and a classifier behind flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.inner = nn.Sequential(nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout2d(0.5))
        self.depthwise = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.BatchNorm2d(6), nn.ReLU6())
        self.outer = nn.Conv2d(6, 4, 1)
        self.last = nn.Sequential(nn.Conv2d(4, 5, 1), nn.ReLU(), nn.MaxPool2d(2))
        self.hidden = nn.Linear(5 * 4, 7)
        self.head = nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.outer(self.depthwise(self.inner(x)))
        return self.head(torch.relu(self.hidden(self.last(x).flatten(1))))


def network(kind: Callable[[], nn.Module] = Joined, dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    model = kind().to(dtype)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.running_mean, norm.running_var, norm.weight.data, norm.bias.data):
                tensor.uniform_(0.5, 1.5)
    return model.eval()


def images(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(3, 3, 4, 4, dtype=dtype, generator=draws())


PRECISIONS = [(torch.float64, 1e-12), (torch.float32, 1e-6)]


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize(("layer", "width"), [("inner.0", 11), ("last.0", 8), ("hidden", 15), ("inner.0", 6)])
def test_wider_computes_the_same(layer: str, width: int, dtype: torch.dtype, tolerance: float) -> None:
    model = network(dtype=dtype)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wide = wider(model, layer, width, generator=draws())
    assert wide.get_submodule(layer).weight.shape[0] == width
    torch.testing.assert_close(wide(images(dtype)), model(images(dtype)), rtol=0, atol=tolerance)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    again = wider(wide, layer, width + 5, generator=draws())
    torch.testing.assert_close(again(images(dtype)), model(images(dtype)), rtol=0, atol=tolerance)
    assert all(parameter.requires_grad for parameter in again.parameters())


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize(
    ("after", "kernel"), [("stem.2", 3), ("inner.2", 5), ("last.1", 1), ("depthwise.2", 3)]
)
def test_deeper_computes_the_same(after: str, kernel: int, dtype: torch.dtype, tolerance: float) -> None:
    model = network(dtype=dtype)
    deep = deeper(model, after, kernel_size=kernel)
    added = deep.get_submodule(after)
    assert added[1].kernel_size == (kernel, kernel)
    assert isinstance(added[2], nn.BatchNorm2d) == (after != "last.1")
    torch.testing.assert_close(deep(images(dtype)), model(images(dtype)), rtol=0, atol=tolerance)
    twice = (
        deeper(wider(deep, f"{after}.1", 12, generator=draws()), f"{after}.0") if after == "last.1" else deep
    )
    torch.testing.assert_close(twice(images(dtype)), model(images(dtype)), rtol=0, atol=tolerance)


def test_deeper_linear_layers() -> None:
    model = network(lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    x = torch.randn(5, 3, dtype=torch.float64, generator=draws())
    torch.testing.assert_close(deeper(model, "1")(x), model(x), rtol=0, atol=1e-12)


# -- by hand -----------------------------------------------------------------------------------------------


def test_widening_by_hand() -> None:
    """Two layers of 3 units; g = 0, 1, 2, 0, 0."""
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2, bias=False)).double()
    first: Any = model[0]
    second: Any = model[2]
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[0.5, -1], [0.3, 0.8], [-0.6, 0.2]]))
        first.bias.copy_(torch.tensor([0.4, -0.2, 0.75]))
        second.weight.copy_(torch.tensor([[1, -0.5, 0.25], [0.7, 0.4, -1.2]]))
        x = torch.tensor([1, 0.5], dtype=torch.float64)
        torch.testing.assert_close(model(x), torch.tensor([0.2125, 0.18]).double(), rtol=0, atol=1e-7)
        copies = _Copies(torch.tensor([0, 1, 2, 0, 0]), 3)
        _widen_outputs(first, copies)
        undivided = torch.relu(first(x)) @ second.weight[:, copies.source].T
        _read_copies(second, copies)
    expected = [[1 / 3, -0.5, 0.25, 1 / 3, 1 / 3], [0.7 / 3, 0.4, -1.2, 0.7 / 3, 0.7 / 3]]
    torch.testing.assert_close(second.weight.tolist(), expected, rtol=0, atol=1e-7)
    torch.testing.assert_close(undivided.tolist(), [1.0125, 0.74], rtol=0, atol=1e-7)
    torch.testing.assert_close(model(x), torch.tensor([0.2125, 0.18]).double(), rtol=0, atol=1e-7)


def test_a_batch_norm_that_is_the_identity_by_hand() -> None:
    norm = nn.BatchNorm2d(2, eps=1e-3).double().eval()
    undo_norm(norm, torch.tensor([0.2, 0.5]), torch.tensor([0.04, 0.09]))
    assert norm.weight.tolist() == pytest.approx([0.20248457, 0.30166206], abs=1e-8)
    x = torch.randn(2, 2, 3, 3, dtype=torch.float64, generator=draws())
    torch.testing.assert_close(norm(x), x, rtol=0, atol=1e-7)


def test_moments_of_rectified_normal_numbers() -> None:
    """Of N(0, 1): 1 / sqrt(2 pi) and 1/2 - 1 / (2 pi)."""
    mean, variance = rectified(torch.zeros(1).double(), torch.ones(1).double())
    assert float(mean) == pytest.approx(0.3989422804)
    assert float(variance) == pytest.approx(0.3408450569)


def test_noise_is_on_the_copies_alone() -> None:
    model = network()
    noisy = wider(model, "hidden", 9, generator=draws(), noise=0.01)
    exact = wider(model, "hidden", 9, generator=draws())
    difference = (noisy.hidden.weight - exact.hidden.weight).detach()
    assert not difference[:7].any()
    assert 0 < float(difference[7:].abs().max()) < 0.05 * float(model.hidden.weight.detach().std())


# -- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("outer", "'add' reads the layer"),
        ("head", "the output of the model reads the layer"),
        ("depthwise.0", "expected a Linear, or a convolution without groups"),
        ("inner.9", r"has no module 'inner\.9'"),
    ],
)
def test_what_cannot_be_widened(layer: str, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        wider(network(), layer, 20, generator=draws())


def test_what_cannot_be_deepened() -> None:
    with pytest.raises(SpaceError, match="of it twice is not it once"):
        deeper(nn.Sequential(nn.Linear(2, 2), nn.Tanh()), "1")
    with pytest.raises(SpaceError, match="must be odd"):
        deeper(network(), "stem.2", kernel_size=2)
    with pytest.raises(SpaceError, match="no convolution or linear layer before it"):
        deeper(nn.Sequential(nn.ReLU()), "0")
    shared = nn.ReLU()
    with pytest.raises(SpaceError, match="called 2 times"):
        deeper(nn.Sequential(nn.Linear(2, 2), shared, nn.Linear(2, 2), shared), "1")
    with pytest.raises(SpaceError, match="width=2 must be an integer of at least 6"):
        wider(network(), "inner.0", 2, generator=draws())


def test_noise_on_a_new_layer() -> None:
    """A share of the deviation of the identity's weights; without it the identity is exact."""
    model = network()
    noisy: Any = deeper(model, "stem.2", noise=0.001, generator=draws()).get_submodule("stem.2.1")
    exact: Any = deeper(model, "stem.2").get_submodule("stem.2.1")
    difference = (noisy.weight - exact.weight).detach()
    assert difference.std() == pytest.approx(0.001 * float(exact.weight.detach().std()), rel=0.2)
