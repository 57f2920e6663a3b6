"""State dicts in the layouts of other implementations compute in our networks what they computed there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from spacelang import SpaceError
from spacelang.hub import AutoFormer, architecture, convert_weights, load, published, to_genotype

from .layouts import CLASSES, DartsCell, DrnasCell, Network, NniCell, NniCellWithDropPath

pytestmark = pytest.mark.slow

LAYOUTS: dict[str, dict[str, Any]] = {
    "darts": {"cell": DartsCell, "stages": False},
    "drnas": {"cell": DrnasCell, "stages": False},
    "nni": {"cell": NniCell, "stages": True},
    "nni-drop-path": {"cell": NniCellWithDropPath, "stages": True},
}
SIZES = {"width": 4, "num_cells": 5}


def reference(layout: str, name: str = "darts-v2", **options: Any) -> Network:
    """Build one of their networks, with weights and statistics that a fresh network never has."""
    torch.manual_seed(3)
    genotype = to_genotype(architecture(name))
    network = Network(genotype, **LAYOUTS[layout], **{**SIZES, **options}).double()
    for buffer in network.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    for parameter in network.parameters():
        if parameter.dim() == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
    return network.eval()


def ours(name: str = "darts-v2", **options: Any) -> Any:
    given = {"num_classes": CLASSES, "auxiliary_loss": True, "dataset": "cifar", **SIZES, **options}
    return load(name, **given).double().eval()


def check_same(theirs: Network, model: Any, size: int) -> None:
    images = torch.randn(2, 3, size, size, dtype=torch.float64)
    logits, auxiliary = theirs(images)
    torch.testing.assert_close(model(images), logits)
    if model.auxiliary_head is not None:
        before: list[torch.Tensor] = []
        handle = model.cells[theirs.auxiliary_index].register_forward_hook(
            lambda *args: before.append(args[-1])
        )
        model(images)
        handle.remove()
        torch.testing.assert_close(model.auxiliary_head(before[0]), auxiliary)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("name", "num_cells"),
    [
        ("darts-v1", 5),
        ("darts-v2", 4),
        ("darts-v2", 8),
        ("pc-darts-cifar", 5),
        ("gdas-v1", 5),
        ("drnas-cifar10", 5),
    ],
)
def test_cifar_networks(layout: str, name: str, num_cells: int) -> None:
    theirs = reference(layout, name, num_cells=num_cells)
    model = ours(name, num_cells=num_cells, pool_norms=layout == "drnas")
    weights = convert_weights(theirs.state_dict(), model)
    assert list(weights) != list(theirs.state_dict())
    model.load_state_dict(weights)
    check_same(theirs, model, 32)


@pytest.mark.parametrize(("layout", "second_norm"), [("darts", False), ("nni", True)])
def test_imagenet_networks(layout: str, second_norm: bool) -> None:
    """NNI's auxiliary head has a batch norm that the original (and ours) has not: it is left out there."""
    theirs = reference(layout, imagenet=True, second_norm=second_norm)
    model = ours(dataset="imagenet", auxiliary_loss=not second_norm)
    model.load_state_dict(convert_weights(theirs.state_dict(), model))
    check_same(theirs, model, 224)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "drnas"])
def test_files_of_either_layout_load_by_name(layout: str, tmp_path: Path) -> None:
    """As training scripts leave them: in a checkpoint, of nn.DataParallel, without counters (torch 0.3)."""
    theirs = reference(layout)
    weights = {
        f"module.{name}": tensor
        for name, tensor in theirs.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    torch.save({"epoch": 600, "state_dict": weights}, tmp_path / "darts-v2.pth")
    for place in (tmp_path, tmp_path / "darts-v2.pth", str(tmp_path / "darts-v2.pth")):
        model = load("darts-v2", pretrained=place, num_classes=CLASSES, dataset="cifar", **SIZES)
        assert torch.equal(model.classifier.weight, theirs.classifier.weight.float())
        assert int(model.stem0[1].num_batches_tracked) == 0
    check_same(theirs, load_double(tmp_path), 32)


def load_double(folder: Path) -> Any:
    model: Any = load("darts-v2", num_classes=CLASSES, dataset="cifar", **SIZES).double()
    checkpoint = torch.load(folder / "darts-v2.pth", weights_only=True)
    model.load_state_dict(convert_weights(checkpoint["state_dict"], model))
    return model.eval()


@pytest.mark.parametrize("layout", ["darts", "nni"])
def test_another_size_is_refused_by_name(layout: str, tmp_path: Path) -> None:
    torch.save(reference(layout).state_dict(), tmp_path / "net.pth")
    with pytest.raises(
        SpaceError, match=r"do not fit DARTS: \d+ missing: 'cells\.1\.\w+\..*'cells\.6\.\w+\."
    ):
        load("darts-v2", pretrained=tmp_path / "net.pth", num_classes=CLASSES, **{**SIZES, "num_cells": 7})
    with pytest.raises(SpaceError, match=r"'stem0\.0\.weight' is \(12, 3, 3, 3\), in the network \(18, 3"):
        load("darts-v2", pretrained=tmp_path / "net.pth", num_classes=CLASSES, **{**SIZES, "width": 6})
    with pytest.raises(SpaceError, match=r"do not fit DARTS: .*unknown"):
        load("darts-v1", pretrained=tmp_path / "net.pth", num_classes=CLASSES, **SIZES)


def test_our_own_layout_keeps_its_names() -> None:
    model = ours()
    weights = model.state_dict()
    assert convert_weights(weights, model) == dict(weights)
    assert convert_weights(weights, ours(auxiliary_loss=False)).keys() == {
        name for name in weights if not name.startswith("auxiliary_head.")
    }


def test_other_networks_are_left_alone() -> None:
    weights = {"cells.0._ops.0.op.1.weight": torch.zeros(1)}
    assert convert_weights(weights, nn.Linear(1, 1)) == weights
    small = AutoFormer((8,), (1.0,), (1,), (1,), image_size=4, patch_size=2)
    assert convert_weights(weights, small) == weights


def test_published_imports_no_space() -> None:
    imports = re.compile(r"^\s*from (\.\.\S*|spacelang\.hub\S*) import", re.MULTILINE)
    for file in Path(published.__file__).parent.glob("*.py"):
        assert imports.findall(file.read_text(encoding="utf-8")) == [], file.name
