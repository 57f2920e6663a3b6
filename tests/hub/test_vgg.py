"""VGG networks are those of torchvision: sizes, order of weights, outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import vgg

from spacelang import SpaceError
from spacelang.hub import VGG, convert_weights, load

from .networks import n_parameters

PUBLISHED = {  # torchvision's counts, with its head
    "vgg-11": 132_863_336,
    "vgg-13-bn": 133_053_736,
    "vgg-16": 138_357_544,
    "vgg-19-bn": 143_678_248,
}


@pytest.mark.parametrize(("name", "count"), PUBLISHED.items())
def test_shapes_are_those_of_torchvision(name: str, count: int) -> None:
    with torch.device("meta"):
        ours = load(name)
        theirs = getattr(vgg, name.replace("-", "", 1).replace("-", "_"))(init_weights=False)
    assert n_parameters(ours) == n_parameters(theirs) == count
    assert [w.shape for w in ours.state_dict().values()] == [w.shape for w in theirs.state_dict().values()]


@pytest.mark.parametrize("name", ["vgg-11", "vgg-13-bn"])
def test_weights_of_torchvision_load(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of a sixteenth of the width, whose last map is 1x1 in both."""
    torch.manual_seed(0)
    plan = [c if c == "M" else c // 16 for c in vgg.cfgs["A" if "11" in name else "B"]]  # type: ignore[operator]
    features = vgg.make_layers(plan, batch_norm=name.endswith("bn"))
    theirs: Any = vgg.VGG(features, num_classes=5, dropout=0.0)
    theirs.avgpool = torch.nn.AdaptiveAvgPool2d(1)
    theirs.classifier[0] = torch.nn.Linear(32, 8)
    theirs.classifier[3] = torch.nn.Linear(8, 8)
    theirs.classifier[6] = torch.nn.Linear(8, 5)
    torch.save(theirs.state_dict(), tmp_path / "vgg.pth")
    sizes = {"dataset": (3, 32, 5), "widths": (4, 8, 16, 32, 32), "hidden": 8, "dropout": 0.0}
    with torch.random.fork_rng():
        monkeypatch.setattr("spacelang.hub.plain.vgg.make_divisible", int)  # widths of 4 and less than 8
        ours = load(name, pretrained=tmp_path / "vgg.pth", **sizes)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))


def test_other_weights_are_left_alone() -> None:
    small = VGG((1, 8, 3), widths=(8,), hidden=8)
    weights = small.state_dict()
    assert convert_weights(weights, small) == dict(weights)
    assert convert_weights({"features.0.weight": torch.zeros(1)}, small).keys() == {"features.0.weight"}


def test_images_that_are_too_small() -> None:
    with pytest.raises(
        SpaceError, match="5 stages halve images of 16 pixels too often; pass widths= of at most 4"
    ):
        VGG((3, 16, 10))
    for wrong in ({"hidden": 0}, {"pooled": 0}, {"dropout": 1.0}):
        with pytest.raises(SpaceError, match=next(iter(wrong))):
            VGG("cifar", **wrong)  # type: ignore[arg-type]
