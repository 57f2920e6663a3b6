"""The AutoFormer space: exact counts, sizes, both ways to a model, attention against its formula."""

from __future__ import annotations

import math
import warnings
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from spacelang import SpaceError, Supernet, hub, model_context, profile
from spacelang.hub import AutoFormer
from spacelang.hub.operations.cell_operations import DropPath
from spacelang.hub.operations.transformer_operations import RelativeAttention, RelativePosition
from spacelang.hub.published import read_entry
from spacelang.hub.transformers.autoformer import PRESETS

from .networks import Tally, n_macs, n_parameters, one_hot

pytestmark = pytest.mark.slow

NAMES = ("autoformer-tiny", "autoformer-small", "autoformer-base")

# As measured on another code base, at 3x224x224.
PUBLISHED = [("autoformer-tiny", 5_867_944, 1_084_534_272), ("autoformer-base", 53_691_688, 10_399_615_488)]

SMALL: dict[str, Any] = {
    "search_embed_dim": (16, 24),
    "search_mlp_ratio": (1.5, 2.0),
    "search_num_heads": (1, 2, 3),
    "search_depth": (1, 2, 4),
    "num_classes": 5,
    "image_size": 12,
    "patch_size": 4,
    "in_channels": 2,
    "head_dim": 8,
}


@cache
def small() -> AutoFormer:
    torch.manual_seed(0)
    return AutoFormer(**SMALL).double()


def build(arch: dict[str, Any], **arguments: Any) -> AutoFormer:
    with warnings.catch_warnings(), model_context(arch):
        warnings.simplefilter("error")  # labels no choice asks for
        return AutoFormer(**arguments)


def images(batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 2, 12, 12, generator=generator, dtype=torch.float64)


# -- counts ----------------------------------------------------------------------------------------------


def closed_form(
    arch: dict[str, Any], image: int, classes: int, *, patch: int = 16, in_channels: int = 3, head: int = 64
) -> Tally:
    tally, dim, size = Tally(), arch["embed_dim"], image // patch
    tokens = size**2 + 1
    tally.conv(in_channels, dim, patch, size, norm=False, bias=True)
    tally.parameters += dim + tokens * dim  # class token and positions
    for index in range(arch["depth"]):
        inner, hidden = head * arch[f"num_head_{index}"], int(dim * arch[f"mlp_ratio_{index}"])
        for inputs, outputs in (*[(dim, inner)] * 3, (inner, dim), (dim, hidden), (hidden, dim)):
            tally.linear(inputs, outputs, rows=tokens)
        tally.parameters += 4 * dim + 4 * (2 * size + 2) * head  # norms, relative positions
    tally.parameters += 2 * dim
    tally.linear(dim, classes)
    return tally


@pytest.mark.parametrize(("name", "parameters", "macs"), PUBLISHED)
def test_counts_that_other_code_bases_report(name: str, parameters: int, macs: int) -> None:
    with torch.device("meta"):
        model = hub.load(name)
    assert n_parameters(model) == parameters
    assert n_macs(model, 3, 224, 224) == macs


@pytest.mark.parametrize("name", NAMES)
def test_counts_of_the_entries(name: str) -> None:
    entry = read_entry(name)
    (row,) = entry.counts
    with torch.device("meta"):
        model = hub.load(name)
    tally = closed_form(dict(entry.architecture), 224, 1000)
    assert n_parameters(model) == row["parameters"] == tally.parameters
    assert n_macs(model, *row["image"]) == row["macs"] == tally.macs


@pytest.mark.parametrize("name", PRESETS)
def test_random_architectures_have_their_closed_form_counts(name: str) -> None:
    with torch.device("meta"):
        space = AutoFormer.preset(name)
        rng = np.random.default_rng(2)
        for index, arch in enumerate([space.default(), *(space.sample(rng) for _ in range(10))]):
            model = build(arch, **PRESETS[name], image_size=32, num_classes=10)
            tally = closed_form(arch, 32, 10)
            assert n_parameters(model) == tally.parameters
            assert index > 1 or n_macs(model, 3, 32, 32) == tally.macs


def test_profile_counts_attention_too() -> None:
    arch = small().default()
    model = small().freeze(arch)
    tally = closed_form(arch, 12, 5, patch=4, in_channels=2, head=8)
    cost = profile(model, images(1))
    heads, tokens = arch["num_head_0"], 10
    assert cost.parameters == tally.parameters
    assert cost.macs == tally.macs + 4 * heads * tokens**2 * 8  # q k, q r_k, a v, a r_v


# -- the space -------------------------------------------------------------------------------------------


def test_sizes() -> None:
    def size(dims: int, per_layer: int, depths: tuple[int, ...]) -> int:
        return dims * sum(per_layer**depth for depth in depths)

    with torch.device("meta"):
        assert AutoFormer().size() == AutoFormer.preset("tiny").size() == size(3, 6, (12, 13, 14))
        assert AutoFormer.preset("small").size() == size(3, 9, (12, 13, 14))
        assert AutoFormer.preset("base").size() == size(3, 9, (14, 15, 16))
    assert small().size() == size(2, 6, (1, 2, 4))


def test_labels_are_those_of_published_dicts() -> None:
    layers = [f"{kind}_{index}" for index in range(4) for kind in ("num_head", "mlp_ratio")]
    assert {d.label for d in small().decisions} == {"embed_dim", "depth", *layers}
    arch = {"embed_dim": 16, "depth": 1} | {label: 1 if "head" in label else 2.0 for label in layers}
    assert small().canonical(arch) == {"embed_dim": 16, "depth": 1, "num_head_0": 1, "mlp_ratio_0": 2.0}


def test_a_mixture_with_one_candidate_each_is_the_frozen_network() -> None:
    supernet = Supernet(small())
    assert supernet.soft_refusals() == []
    rng = np.random.default_rng(6)
    for arch in (small().sample(rng) for _ in range(5)):
        supernet.set_mixture(one_hot(supernet, arch))
        torch.testing.assert_close(supernet(images()), supernet.freeze(arch)(images()), rtol=0, atol=1e-12)


def test_only_the_selected_slices_learn() -> None:
    supernet = Supernet(small())
    arch = {"embed_dim": 16, "depth": 1, "num_head_0": 1, "mlp_ratio_0": 1.5}
    supernet.select(arch)
    supernet(images()).sum().backward()
    tokens = supernet.network.class_token.largest
    assert tokens.token.shape == (1, 1, 24)
    assert tokens.token.grad[..., :16].abs().sum() > 0
    assert tokens.token.grad[..., 16:].abs().sum() == 0


@pytest.mark.parametrize("name", NAMES)
def test_published_architectures_run(name: str) -> None:
    entry = read_entry(name)
    with torch.device("meta"):
        space = AutoFormer(**entry.arguments)
    assert space.canonical(entry.architecture) == dict(entry.architecture)
    torch.manual_seed(4)
    model = AutoFormer.load_searched_model(name, image_size=32, num_classes=10)
    logits = model(torch.randn(1, 3, 32, 32))
    assert logits.shape == (1, 10)
    logits.sum().backward()


# -- layers ----------------------------------------------------------------------------------------------


def test_relative_positions_depend_on_the_offset_alone() -> None:
    vectors = RelativePosition(3, 4)()  # tokens: the class token, then 3 x 3 patches
    assert vectors.shape == (10, 10, 4)
    assert torch.equal(vectors[1, 2], vectors[5, 6])  # one to the right
    assert torch.equal(vectors[1, 5], vectors[5, 9])  # one down, one to the right
    assert not torch.equal(vectors[1, 2], vectors[2, 1])
    assert not torch.equal(vectors[1, 2], vectors[1, 4])
    with_class = [vectors[0, 0], *vectors[0], *vectors[:, 0]]
    assert all(torch.equal(vector, with_class[0]) for vector in with_class)
    assert len({tuple(vector.tolist()) for vector in vectors.flatten(0, 1)}) == 25 + 1  # offsets, class


def test_attention_is_its_formula() -> None:
    """Token by token, head by head: a = softmax(q (k + r_k) / sqrt(d)), y = a (v + r_v)."""
    torch.manual_seed(5)
    layer = RelativeAttention(6, 2, head_dim=4, size=2, dropout=0.0).double()
    x = torch.randn(1, 5, 6, dtype=torch.float64)
    q, k, v = (project(x)[0].view(5, 2, 4) for project in (layer.q, layer.k, layer.v))
    r_k, r_v = layer.rel_pos_embed_k(), layer.rel_pos_embed_v()
    rows = []
    for i in range(5):
        heads = []
        for h in range(2):
            scores = torch.stack([q[i, h] @ (k[j, h] + r_k[i, j]) / math.sqrt(4) for j in range(5)])
            heads.append(sum(a * (v[j, h] + r_v[i, j]) for j, a in enumerate(scores.softmax(0))))
        rows.append(torch.cat(heads))
    torch.testing.assert_close(layer(x)[0], layer.proj(torch.stack(rows)))


def test_drop_path_rises_with_depth() -> None:
    with torch.device("meta"):
        space = AutoFormer(**SMALL, drop_path_prob=0.3)
        rates = [[m.p for m in block.modules() if isinstance(m, DropPath)] for block in space.blocks.blocks]
    assert rates == [[], [pytest.approx(0.1)], [pytest.approx(0.2)], [pytest.approx(0.3)]]
    assert not any(isinstance(module, DropPath) for module in small().modules())


def test_presets_take_arguments() -> None:
    with torch.device("meta"):
        space = AutoFormer.preset("base", num_classes=7, search_depth=(1,))
    assert isinstance(space.head, nn.Module)
    assert space.size() == 3 * 9
    with pytest.raises(
        SpaceError, match=r"preset='bas' must be one of 'tiny', 'small', 'base'\. Closest: 'base'"
    ):
        AutoFormer.preset("bas")


@pytest.mark.parametrize("size", [30, 8, 0])
def test_images_are_whole_patches(size: int) -> None:
    with pytest.raises(SpaceError, match=f"multiple of patch_size; got image_size={size}, patch_size=16"):
        AutoFormer(image_size=size)
