"""Profiles: exact counts, an untouched model, ranges of a space."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spacelang import SpaceError, Supernet, profile


def test_counts_of_a_convolution_and_a_linear() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(8 * 16, 5))
    found = profile(model, torch.zeros(2, 3, 4, 4))
    macs = 2 * (8 * 3 * 9 * 16 + 128 * 5)
    assert (found.macs, found.flops) == (macs, 2 * macs)
    assert found.parameters == 8 * 3 * 9 + 128 * 5 + 5
    assert found.output_shape == (2, 5)


def test_counts_attention() -> None:
    model = nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.zeros(1, 6, 8)
    found = profile(model, (x, x, x))
    assert found.macs == 6 * 8 * 24 + 2 * 6 * 6 * 8 + 6 * 8 * 8  # projections, scores and values, output
    assert found.output_shape == ((1, 6, 8), (1, 6, 6))


def test_the_model_is_untouched() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5)).train()
    model[2].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    profile(model, torch.ones(1, 1, 5, 5))
    assert [module.training for module in model] == [True, True, False]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert not model[0].weight.is_meta


def test_a_network_that_looks_at_values() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)
            self.scale = torch.ones(3)  # a plain attribute, which does not move to another device

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x) * self.scale if x.sum() > 0 else x

    assert profile(Gated(), torch.ones(1, 3)).macs == 9


def test_shared_weights_count_once() -> None:
    layer = nn.Linear(3, 3)
    found = profile(nn.Sequential(layer, layer), torch.ones(1, 3))
    assert (found.parameters, found.macs) == (12, 18)


def test_activation_memory() -> None:
    """Linear keeps its input, ReLU its output, which the next linear keeps too; weights do not count."""
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2), nn.Identity())
    found = profile(model, torch.zeros(7, 3))
    assert found.activation_memory == 4 * 7 * (3 + 5)
    doubled = profile(model.double(), torch.zeros(7, 3, dtype=torch.float64))
    assert doubled.activation_memory == 8 * 7 * (3 + 5)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    assert profile(model, torch.zeros(7, 3, dtype=torch.float64)).activation_memory == 0


@pytest.mark.slow
def test_activation_memory_is_that_of_a_real_pass() -> None:
    """Counted without data, it is what autograd keeps on the model's device: attention is fused there."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(32, 4, batch_first=True, dropout=0.1)
            self.norm = nn.BatchNorm1d(16)
            self.rnn = nn.GRU(32, 5, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(self.norm(self.attention(x, x, x, need_weights=False)[0]))[0]

    model, x = Attention(), torch.randn(2, 16, 32)
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.train()(x)
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    wanted = sum(t.untyped_storage().nbytes() for address, t in kept.items() if address not in own)
    assert profile(model, x).activation_memory == wanted


def test_a_network_that_does_not_train_on_the_input_has_no_activation_memory() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    assert profile(model, torch.zeros(1, 3)).activation_memory is None
    assert profile(model, torch.zeros(2, 3)).activation_memory is not None


def test_latency_is_measured_when_asked_for() -> None:
    class Counted(nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            if not x.is_meta and "Fake" not in type(x).__name__:
                assert not self.training
                Counted.calls += 1
            return x

    assert profile(Counted(), torch.zeros(2, 3)).latency is None
    assert Counted.calls == 0
    found = profile(Counted().train(), torch.zeros(2, 3), latency=True, repeats=5)
    assert found.latency is not None
    assert found.latency > 0
    assert Counted.calls == 5 + 3  # three to warm up
    with pytest.raises(SpaceError, match="repeats=0 must be an integer of at least 1"):
        profile(Counted(), torch.zeros(2, 3), latency=True, repeats=0)


@pytest.mark.slow
def test_a_space_gives_ranges(space_class: Any) -> None:
    space, x = space_class(), torch.zeros(2, 1, 8, 8)
    found = profile(space, x, latency=True, repeats=1)
    for name in ("parameters", "flops", "activation_memory"):
        spread = getattr(found, name)
        assert spread.smallest < spread.largest
        for end in ("smallest", "largest"):
            model = space.freeze(getattr(spread, f"{end}_architecture"))
            assert getattr(profile(model, x), name) == getattr(spread, end)
    assert found.parameters == space.report(x).parameters
    assert found.latency.smallest > 0
    text = str(found).splitlines()
    assert [line.split(":")[0] for line in text] == [
        "parameters", "FLOPs", "activation memory (bytes)", "latency (ms)"
    ]  # fmt: skip


def test_a_supernet_is_no_result(space_class: Any) -> None:
    with pytest.raises(SpaceError, match=r"cannot profile Supernet.*freeze"):
        profile(Supernet(space_class()), torch.zeros(1, 1, 8, 8))


def test_a_frozen_space(space_class: Any, conv_arch: dict[str, Any]) -> None:
    space = space_class()
    found = profile(space.freeze(conv_arch), torch.zeros(1, 1, 8, 8))
    assert found.macs == 64 * 9 * 4 * (1 + 3 * 4) + 8 * 3  # stem, three convolutions, head


def test_a_frozen_space_is_counted_without_data(space_class: Any, conv_arch: dict[str, Any]) -> None:
    """The copy of tensors without data is the whole copy: nothing with data is left in the model."""
    model = space_class().freeze(conv_arch)
    tensors = {id(t) for t in (*model.parameters(), *model.buffers())}
    kept = [value for part in model.modules() for value in vars(part).values() if isinstance(value, Tensor)]
    assert {id(value) for value in kept} <= tensors


@pytest.mark.parametrize("bad", [None, "x", (), (torch.ones(0, 3),), torch.tensor(1.0)])
def test_bad_example_inputs(bad: Any) -> None:
    with pytest.raises(SpaceError, match="example_inputs"):
        profile(nn.Linear(3, 3), bad)


def test_inputs_may_differ_in_length() -> None:
    assert profile(nn.EmbeddingBag(4, 2), (torch.zeros(6).long(), torch.zeros(1).long())).output_shape == (
        1,
        2,
    )


def test_a_wrong_shape_is_reported() -> None:
    with pytest.raises(SpaceError, match=r"Linear: its forward pass fails for an input of shape \(1, 4\)"):
        profile(nn.Linear(3, 3), torch.ones(1, 4))
