"""Existing models as spaces: what is cut with a width, what blocks become, and what is refused."""

from __future__ import annotations

import copy
import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from spacelang import (
    Depth,
    Experiment,
    ModelSpace,
    OneOf,
    Skip,
    SpaceError,
    Supernet,
    Width,
    model_context,
    profile,
    searchable,
)
from spacelang.costs import expected_cost
from spacelang.evaluators import Functional
from spacelang.language import architecture_of, is_frozen
from spacelang.strategies.multi_trial import Random
from tests.models.networks import Mobile, randomised, size

INNER = "layer2.0.conv1.out_channels"
STREAM = "layer3.0.conv2"
IMAGES = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
SMALL = torch.randn(2, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return randomised(resnet18())


@pytest.fixture(scope="module")
def space(resnet: nn.Module) -> ModelSpace:
    depthwise = nn.Sequential(
        nn.Conv2d(256, 256, 3, padding=1, groups=256, bias=False), nn.Conv2d(256, 256, 1, bias=False)
    )
    choices = {
        "layer*.1": Skip(),
        INNER: Width([64, 1.0]),
        STREAM: Width([0.75, 1.0]),
        "layer3.1.conv1": OneOf(
            {
                "separable": depthwise.double(),
                "pointwise": lambda conv: nn.Conv2d(256, 256, 1, bias=False).double(),
            }
        ),
    }
    return searchable(resnet, choices, IMAGES)


WHOLE = {
    **{f"layer{i}.1": "keep" for i in (1, 2, 3, 4)},
    INNER: 128,
    STREAM: 256,
    "layer3.1.conv1": "original",
}


def test_the_space_of_a_resnet(space: ModelSpace, resnet: nn.Module) -> None:
    assert {d.label: d.candidates for d in space.decisions}[STREAM] == (192, 256)
    assert space.size() == 2 * 2 * 2 * 2 * 2 * (1 + 3)  # the replaced layer is in a block that may be skipped
    frozen = space.freeze(WHOLE)
    assert type(frozen) is type(resnet)
    assert list(frozen.state_dict()) == list(resnet.state_dict())
    assert architecture_of(frozen) == WHOLE
    expected = resnet(IMAGES)
    assert (frozen(IMAGES) - expected).abs().max() < 1e-9 * expected.abs().max()


# Counts of parameters and tensors, computed from the shapes of the original's layers.
@pytest.mark.parametrize(
    ("changed", "parameters", "tensors"),
    [
        ({}, 11_689_512, 122),
        ({"layer1.1": "skip"}, 11_615_528, 110),
        ({INNER: 64}, 11_578_792, 122),
        ({"layer1.1": "skip", INNER: 64}, 11_504_808, 110),
        ({f"layer{i}.1": "skip" for i in (1, 2, 3, 4)}, 5_418_792, 74),
        ({STREAM: 192}, 10_910_888, 122),
        ({"layer3.1.conv1": "separable"}, 11_167_528, 123),
        ({"layer3.1.conv1": "pointwise"}, 11_165_224, 122),
    ],
)
def test_counts_of_cut_resnets(
    space: ModelSpace, changed: dict[str, Any], parameters: int, tensors: int
) -> None:
    arch = WHOLE | changed
    frozen = space.freeze(arch)
    assert (size(frozen), len(frozen.state_dict())) == (parameters, tensors)
    assert is_frozen(frozen)


def test_a_supernet_computes_what_the_frozen_model_does(space: ModelSpace) -> None:
    supernet = Supernet(space, memory_format=None).eval()
    assert supernet.soft_refusals() == []
    rng = np.random.default_rng(0)
    for arch in [space.sample(rng) for _ in range(4)]:
        supernet.select(arch)
        frozen = supernet.freeze(arch)
        assert type(frozen).__name__ == "ResNet"
        assert torch.equal(supernet(IMAGES), frozen(IMAGES))
        assert torch.equal(supernet(IMAGES), space.freeze(arch)(IMAGES))


def test_costs_are_those_of_the_frozen_model(space: ModelSpace) -> None:
    arch = WHOLE | {STREAM: 192, INNER: 64, "layer4.1": "skip", "layer3.1.conv1": "separable"}
    frozen = space.freeze(arch)
    assert expected_cost(space, "params").of(arch) == size(frozen)
    assert expected_cost(space, "flops", IMAGES).of(arch) == profile(frozen, IMAGES).flops


def test_a_skipped_block_equals_one_whose_last_norm_is_zero(space: ModelSpace) -> None:
    skipped, silenced = space.freeze(WHOLE | {"layer1.1": "skip"}), space.freeze(WHOLE)
    nn.init.zeros_(silenced.layer1[1].bn2.weight)  # type: ignore[union-attr, index]
    nn.init.zeros_(silenced.layer1[1].bn2.bias)  # type: ignore[union-attr, index]
    assert torch.equal(skipped(IMAGES), silenced(IMAGES))
    assert isinstance(skipped.layer1[1], nn.Identity)  # type: ignore[index]


def test_attributes_follow_sizes(space: ModelSpace) -> None:
    frozen: Any = space.freeze(WHOLE | {INNER: 64})
    assert (frozen.layer2[0].conv1.out_channels, frozen.layer2[0].conv2.in_channels) == (64, 64)
    assert frozen.layer2[0].bn1.num_features == len(frozen.layer2[0].bn1.running_mean) == 64


def test_the_model_is_left_as_it_was(resnet: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in resnet.state_dict().items()}
    state = torch.get_rng_state()
    space = searchable(resnet, {INNER: Width([0.5, 1.0])}, IMAGES)
    frozen = space.freeze({INNER: 64})
    nn.init.zeros_(frozen.conv1.weight)  # type: ignore[arg-type, union-attr]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in resnet.state_dict().items())
    assert not resnet._forward_hooks
    assert not frozen._forward_hooks


def test_frozen_models_are_copied_saved_and_exported() -> None:
    space = searchable(randomised(Mobile()), {"blocks.0.expansion.0": Width([0.5, 1.0])}, SMALL)
    frozen = space.freeze({"blocks.0.expansion.0": 4})
    output = frozen(SMALL)
    assert torch.equal(copy.deepcopy(frozen)(SMALL), output)
    exported = torch.export.export(frozen, (SMALL,)).module()
    assert torch.allclose(exported(SMALL), output, atol=1e-12)
    file = io.BytesIO()
    torch.save(frozen.state_dict(), file)
    whole = sum(t.numel() * t.element_size() for t in frozen.state_dict().values())
    assert len(file.getvalue()) < whole + 400 * len(frozen.state_dict())  # not what they are slices of


# -- couplings ---------------------------------------------------------------------------------------------


def test_a_width_takes_norms_depthwise_filters_and_gates_along() -> None:
    model = randomised(Mobile())
    space = searchable(model, {"blocks.*.expansion.0.out_channels": Width([0.5, 1.0])}, SMALL)
    first, second = (f"blocks.{i}.expansion.0.out_channels" for i in (0, 1))
    block: Any = space.freeze({first: 4, second: 8}).blocks[0]  # type: ignore[index]
    shapes = {name: tuple(tensor.shape) for name, tensor in block.named_parameters()}
    assert shapes == {
        "expansion.0.weight": (4, 6, 1, 1),
        "expansion.1.weight": (4,),
        "expansion.1.bias": (4,),
        "depthwise.weight": (4, 1, 3, 3),
        "depthwise.bias": (4,),
        "gate.reduce.weight": (3, 4, 1, 1),
        "gate.reduce.bias": (3,),
        "gate.expand.weight": (4, 3, 1, 1),
        "gate.expand.bias": (4,),
        "projection.weight": (6, 4, 1, 1),
        "projection.bias": (6,),
    }
    assert (block.depthwise.groups, block.depthwise.in_channels, block.depthwise.out_channels) == (4, 4, 4)
    whole: Any = space.freeze({first: 8, second: 8})
    for layer in (whole.blocks[0].projection, whole.blocks[0].gate.reduce):
        nn.init.zeros_(layer.weight[:, 4:])
    cut = space.freeze({first: 4, second: 8})
    assert torch.allclose(cut(SMALL), whole(SMALL), rtol=0, atol=1e-12)


def test_the_width_of_a_residual_sum() -> None:
    space = searchable(randomised(Mobile()), {"stem": Width([3, 6])}, SMALL)
    narrow = space.freeze({"stem": 3})
    assert {name: tuple(p.shape)[:2] for name, p in narrow.named_parameters() if "expansion.0" in name} == {
        "blocks.0.expansion.0.weight": (8, 3),
        "blocks.1.expansion.0.weight": (8, 3),
    }
    # Per block: 8 (3 + 2) + 8 * 10 + (8 * 3 + 3) + (3 * 8 + 8) + (8 * 3 + 3); stem 30, norm 6, head 16.
    assert size(narrow) == 2 * (40 + 80 + 27 + 32 + 27) + 30 + 6 + 16
    assert narrow(SMALL).shape == (2, 4)


class Shuffled(nn.Module):
    """Grouped convolutions with a group norm, then a flattened map for a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.norm = nn.GroupNorm(2, 8)
        self.last = nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6 * 36, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(torch.relu(self.norm(self.grouped(self.first(x))))).flatten(1))


def test_groups_keep_their_number_and_flattened_channels_own_their_columns() -> None:
    model = randomised(Shuffled())
    space = searchable(model, {"first": Width([4, 8]), "last": Width([2, 6])}, SMALL)
    cut: Any = space.freeze({"first": 4, "last": 2})
    assert cut.grouped.weight.shape == (8, 2, 3, 3)  # the same groups of two inputs
    assert (cut.grouped.groups, cut.grouped.in_channels) == (2, 4)
    assert cut.head.weight.shape == (2, 2 * 36)
    assert cut(SMALL).shape == (2, 2)
    whole = space.freeze({"first": 8, "last": 6})
    assert torch.allclose(whole(SMALL), model(SMALL), rtol=1e-9, atol=1e-12)
    with pytest.raises(SpaceError, match=r"'first' .*3 of 8 cannot be had; possible are 2, 4, 6, 8"):
        searchable(model, {"first": Width([3, 8])}, SMALL)


class Normed(nn.Module):
    """A convolution in two groups, whose outputs a batch norm reads."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped, self.norm = nn.Conv2d(2, 8, 1, groups=2), nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 2, 1, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.grouped(x)))


def test_statistics_of_every_group_are_kept() -> None:
    x = torch.randn(4, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    space = searchable(randomised(Normed()), {"grouped": Width([4, 8])}, x)
    supernet = Supernet(space, memory_format=None)
    supernet.select({"grouped": 4})
    norm: Any = supernet.network.model.norm.largest  # type: ignore[union-attr]
    before, frozen = norm.running_mean.clone(), supernet.freeze({"grouped": 4})
    supernet.train()(x)
    frozen.train()(x)
    changed = (norm.running_mean != before).tolist()
    assert changed == [True, True, False, False] * 2  # the first two channels of each group
    assert torch.equal(norm.running_mean[[0, 1, 4, 5]], frozen.norm.running_mean)  # type: ignore[union-attr]


class Twice(nn.Module):
    """One layer called twice, and a map that is concatenated with itself."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.shared, self.leave = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(torch.relu(self.shared(self.enter(x))))
        return self.leave(torch.cat([x, x], 1))


def test_layers_called_twice_and_maps_joined_with_themselves() -> None:
    model, x = randomised(Twice()), torch.randn(5, 3, dtype=torch.float64)
    space = searchable(model, {"enter": Width([1, 2, 4])}, x)
    cut: Any = space.freeze({"enter": 2})
    assert cut.shared.weight.shape == (2, 2)
    assert cut.leave.weight.shape == (2, 4)
    kept = space.freeze({"enter": 4})
    assert torch.allclose(kept(x), model(x), rtol=1e-9)
    assert torch.equal(cut.leave.weight, kept.leave.weight[:, [0, 1, 4, 5]])  # type: ignore[union-attr, index]
    supernet = Supernet(space, memory_format=None).eval()
    supernet.select({"enter": 2})
    assert torch.equal(supernet(x), cut(x))


def test_depth_keeps_the_first_blocks() -> None:
    model = randomised(Mobile())
    space = searchable(model, {"blocks": Depth([0, 1, 2]), "blocks.1.expansion.0": Width([0.5, 1.0])}, SMALL)
    assert space.size() == 4
    label = "blocks.1.expansion.0"
    for depth in (0, 1, 2):
        arch = {"blocks": depth} | ({label: 8} if depth == 2 else {})
        expected = model.stem(SMALL)
        for block in model.blocks[:depth]:  # type: ignore[index]
            expected = block(expected)
        expected = model.head(model.norm(expected).mean((2, 3)))  # type: ignore[operator]
        frozen = space.freeze(arch)
        assert torch.allclose(frozen(SMALL), expected, rtol=1e-9)
        assert expected_cost(space, "params").of(arch) == size(frozen)
        supernet = Supernet(space, memory_format=None).eval()
        supernet.select(arch)
        assert torch.equal(supernet(SMALL), frozen(SMALL))


def test_a_mixture_of_one_is_that_choice() -> None:
    space = searchable(
        randomised(Mobile()),
        {"blocks.0": Skip(), "blocks.1.expansion.0": Width([0.5, 1.0]), "stem": Width([2, 4, 6])},
        SMALL,
    )
    supernet = Supernet(space, memory_format=None).eval().double()
    assert supernet.soft_refusals() == []
    arch = {"blocks.0": "skip", "blocks.1.expansion.0": 4, "stem": 4}
    mixture = {}
    for label, group in supernet.groups.items():
        row = [1.0 if column == arch[label] else 0.0 for column in group.columns]
        mixture[label] = torch.tensor([row], dtype=torch.float64)
    supernet.set_mixture(mixture)  # every candidate runs, all but one weighted by zero
    assert torch.allclose(supernet(SMALL), space.freeze(arch)(SMALL), rtol=1e-9)


# -- building and searching --------------------------------------------------------------------------------


def test_models_built_of_an_architecture_have_the_weights() -> None:
    space = searchable(randomised(Mobile()), {"blocks.0": Skip(), "stem": Width([3, 6])}, SMALL)
    arch = {"blocks.0": "skip", "stem": 3}
    with model_context(arch):
        built = space.rebuild()
    assert type(built) is Mobile
    assert torch.equal(built(SMALL), space.freeze(arch)(SMALL))


def test_trials_search_an_existing_model(tmp_path: Any) -> None:
    space = searchable(randomised(Mobile()), {"blocks.*": Skip(), "stem": Width([3, 6])}, SMALL)
    evaluator = Functional(lambda model: float(size(model)))
    experiment = Experiment(space, evaluator, Random(), max_trials=8, directory=tmp_path / "run", seed=0)
    experiment.run()
    assert experiment.best == {"blocks.0": "keep", "blocks.1": "keep", "stem": 6}


# -- refusals ----------------------------------------------------------------------------------------------


class Unfollowed(nn.Module):
    """Channels that something unknown mixes, and others that are added to the input."""

    def __init__(self) -> None:
        super().__init__()
        self.sorted, self.added, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.scale * torch.sort(self.sorted(x)).values + self.added(x) + x)


def refusal(choices: Any, model: nn.Module | None = None, inputs: Tensor = SMALL) -> str:
    with pytest.raises(SpaceError) as caught:
        searchable(randomised(Mobile()) if model is None else model, choices, inputs)
    return str(caught.value)


def test_refused_widths_say_where_and_why() -> None:
    x = torch.zeros(2, 4)
    assert "'sort' is not followed in the network itself" in refusal(
        {"sorted": Width([2, 4])}, Unfollowed(), x
    )
    assert "it is an input of the network" in refusal({"added": Width([2, 4])}, Unfollowed(), x)
    assert "the network returns it" in refusal({"last": Width([1, 2])}, Unfollowed(), x)
    assert "9 of 8 cannot be had; possible are 1, 2" in refusal({"blocks.0.depthwise": Width([9])})
    assert "0.3 of 8 cannot be had" in refusal({"blocks.0.depthwise": Width([0.3])})
    assert "Name the layer that makes it" in refusal({"blocks.0.projection.in_channels": Width([4])})
    assert "neither returns channels" in refusal({"blocks.0.gate": Width([4])})
    tied = {"blocks.0.expansion.0": Width([4, 8]), "blocks.0.depthwise": Width([2, 8])}
    assert "are one width" in refusal(tied)
    assert "[4, 8] here and [2, 8] there" in refusal(tied)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.scale = nn.Linear(4, 4), nn.Linear(4, 2), nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.scale * self.first(x))


def test_parameters_of_the_network_itself_are_not_cut() -> None:
    assert "scale belongs to the network itself" in refusal(
        {"first": Width([2])}, Scaled(), torch.zeros(2, 4)
    )


class Fixed(nn.Module):
    """A network whose code holds the size of its features."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).view(-1, 4))


def test_a_model_that_does_not_run_cut_is_refused() -> None:
    message = refusal({"first": Width([2, 4])}, Fixed(), torch.zeros(3, 4))
    assert "does not run with smaller widths" in message
    assert "'first'" in message


def test_refused_blocks_and_layers_say_why() -> None:
    assert "'stem': it turns (2, 1, 6, 6) into (2, 6, 6, 6)" in refusal({"*": Skip()})
    assert "depths are numbers from 0 to 2; got [3]" in refusal({"blocks": Depth([3])})
    assert "Depth is for an nn.Sequential" in refusal({"stem": Depth([1])})
    wide = OneOf({"wide": nn.Conv2d(1, 5, 3, padding=1).double()})
    assert "'wide' returns [(2, 5, 6, 6)] in place of 'stem', where [(2, 6, 6, 6)] is" in refusal(
        {"stem": wide}
    )
    other = OneOf({"other": nn.Conv2d(2, 6, 3, padding=1).double()})
    assert "'other' does not run in place of 'stem'" in refusal({"stem": other})


def test_patterns_that_match_nothing_say_what_there_is() -> None:
    assert "in 'blocks.0' there are expansion, depthwise, gate, projection." in refusal(
        {"blocks.0.mlp": Skip()}
    )
    assert "Closest: 'blocks'." in refusal({"block.*": Skip()})
    assert "expected a dict of paths" in refusal({})
    assert "expected Skip()" in refusal({"stem": 3})
    assert "is chosen twice" in refusal({"blocks.0": Skip(), "blocks.*": Skip()})


def test_models_with_choices_of_their_own_are_refused() -> None:
    space = searchable(randomised(Mobile()), {"blocks.0": Skip()}, SMALL)
    assert "has choices of its own" in refusal({"model.blocks.1": Skip()}, space)


def test_a_candidate_is_made_like_the_layer_in_whose_place_it_is() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3)).double().eval()
    x = torch.zeros(1, 2, dtype=torch.float64)
    candidates = {"made": lambda layer: nn.Linear(3, 3), "given": nn.Sequential(nn.BatchNorm1d(3))}
    space = searchable(model, {"1": OneOf(candidates)}, x)
    for name in candidates:
        layer = space.freeze({"1": name})[1]
        assert {tensor.dtype for tensor in layer.parameters()} == {torch.float64}
        assert not any(module.training for module in layer.modules())
    assert candidates["given"].training  # the user's own is left as it was
