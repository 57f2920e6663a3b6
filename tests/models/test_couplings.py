"""What is tied to what in large networks, which have no data here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torchvision import models

from spacelang import Skip, Width, searchable
from spacelang.models.atoms import within
from spacelang.models.couplings import couplings_of
from tests.models.networks import size


def empty(make: Callable[..., nn.Module], *arguments: Any) -> nn.Module:
    with torch.device("meta"):
        return make(*arguments)


def timm_model(name: str) -> nn.Module:
    made: nn.Module = timm.create_model(name)
    return made


# Factors that two or more dimensions of parameters share, counted by hand from the layers: inner widths,
# residual sums, the parts, heads and features of attention, pieces that are joined, and the classes.
@pytest.mark.parametrize(
    ("make", "argument", "shared"),
    [
        (models.resnet18, None, 8 + 4 + 1),
        (models.resnet50, None, 32 + 1 + 4 + 1),
        (models.resnext50_32x4d, None, 54),
        (models.mobilenet_v3_large, None, 14 + 8 + 2 + 6 + 1),
        (models.efficientnet_b0, None, 15 + 16 + 8 + 1 + 1),
        (models.vit_b_16, None, 12 * 4 + 1 + 1),
        (models.swin_t, None, 12 * 4 + 4 + 3 + 1),
        (models.densenet121, None, 1 + 58 * 2 + 3 + 1),
        (models.squeezenet1_1, None, 1 + 8 * 3 + 1),
        (models.convnext_tiny, None, 18 + 4 + 1),
        (timm_model, "vit_small_patch16_224", 12 * 4 + 1 + 1),
        (timm_model, "convnextv2_atto", 12 + 4 + 1),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_factors_that_parameters_share(make: Any, argument: str | None, shared: int) -> None:
    model = empty(make, *([argument] if argument else []))
    couplings = couplings_of(model, (torch.zeros(2, 3, 224, 224),), {})
    seen = Counter(
        id(atom)
        for name, _ in model.named_parameters()
        for atoms in couplings.dims(name)
        for atom in set(within(atoms))
        if not atom.pieces
    )
    assert sum(count > 1 for count in seen.values()) == shared


# Counts of parameters and tensors, computed from the shapes of the original's layers.
@pytest.mark.parametrize(
    ("make", "argument", "choices", "changed", "parameters", "tensors"),
    [
        (
            models.resnet50,
            None,
            {"layer3.2.conv1": Width([0.5]), "layer3.2.conv2": Width([0.5]), "layer3.5": Skip()},
            {"layer3.5": "skip"},
            23_734_824,
            302,
        ),
        (
            models.mobilenet_v3_large,
            None,
            {
                "features.5.block.0.0": Width([64]),
                "features.5.block.2.fc1": Width([16]),
                "features.8": Skip(),
            },
            {"features.8": "skip"},
            5_436_464,
            294,
        ),
        (
            models.efficientnet_b0,
            None,
            {"features.4.1.block.0.0": Width([0.5]), "features.6.3": Skip()},
            {"features.6.3": "skip"},
            4_649_236,
            338,
        ),
        (
            models.vit_b_16,
            None,
            {
                "encoder.layers.encoder_layer_3.self_attention": Width([6]),
                "encoder.layers.encoder_layer_5.mlp.0": Width([0.5]),
                "encoder.layers.encoder_layer_7": Skip(),
            },
            {"encoder.layers.encoder_layer_7": "skip"},
            75_938_152,
            140,
        ),
        (
            models.swin_t,
            None,
            {"features.5.2.mlp.0": Width([0.5]), "features.5.[45]": Skip(label="pair")},
            {"pair": "skip"},
            24_144_778,
            157,
        ),
        (
            models.swin_t,
            None,
            {
                "features.5.2.mlp.0": Width([0.5]),
                "features.5.[45]": Skip(label="pair"),
                "features.3.0.attn": Width([3]),
            },
            {"pair": "skip"},
            24_070_255,
            157,
        ),
        (
            models.convnext_tiny,
            None,
            {"features.5.2.block.3": Width([0.5]), "features.5.8": Skip()},
            {"features.5.8": "skip"},
            26_796_616,
            173,
        ),
        (models.convnext_tiny, None, {"features.1.0.block.5": Width([64])}, {}, 28_483_944, 182),
        (
            timm_model,
            "vit_small_patch16_224",
            {"blocks.3.attn": Width([3]), "blocks.5.mlp.fc1": Width([768]), "blocks.7": Skip()},
            {"blocks.7": "skip"},
            19_390_120,
            140,
        ),
        (
            timm_model,
            "convnextv2_atto",
            {"stages.2.blocks.1.mlp.fc1": Width([0.5]), "stages.2.blocks.3": Skip()},
            {"stages.2.blocks.3": "skip"},
            3_389_840,
            130,
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_counts_of_cut_networks(
    make: Any, argument: str | None, choices: Any, changed: dict[str, Any], parameters: int, tensors: int
) -> None:
    model = empty(make, *([argument] if argument else []))
    space = searchable(model, choices, torch.zeros(1, 3, 224, 224))
    frozen = space.freeze(space.default() | changed)
    assert (size(frozen), len(frozen.state_dict())) == (parameters, tensors)
    assert type(frozen) is type(model)


def test_heads_of_swin_v2_are_refused() -> None:
    model = empty(models.swin_v2_t)
    with pytest.raises(ValueError, match=r"'features\.3\.0\.attn' cannot be chosen.*a part is sliced out"):
        searchable(model, {"features.3.0.attn": Width([3, 6])}, torch.zeros(1, 3, 256, 256))
