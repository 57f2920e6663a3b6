"""Checkpoints of other projects become bundles that `load` accepts; others are refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spacelang import SpaceError, model_context
from spacelang.cli import main
from spacelang.evaluators.data import digits
from spacelang.hub import (
    DARTS,
    OnceForAll,
    architecture,
    convert_checkpoint,
    convert_weights,
    load,
    to_genotype,
)
from spacelang.hub.published.norm_check import check_norms
from spacelang.results import load_bundle

from .layouts import CLASSES, DartsCell, DrnasCell, Network
from .networks import use_statistics_of

SIZES = {"width": 4, "num_cells": 5}


# -- names ---------------------------------------------------------------------------------------------


def distinct(model: nn.Module) -> dict[str, Tensor]:
    """Return a state dict whose tensors all differ, so that no two of them can be exchanged unnoticed."""
    generator = torch.Generator().manual_seed(7)
    return {
        name: torch.rand(w.shape, generator=generator) + 0.5 if w.is_floating_point() else torch.tensor(9)
        for name, w in model.state_dict().items()
    }


def renamed(weights: Mapping[str, Tensor], table: Mapping[str, str]) -> dict[str, Tensor]:
    """Return a state dict with the first pattern of the table that matches replaced in each name."""

    def rename(name: str) -> str:
        for ours, theirs in table.items():
            if re.match(ours, name):
                return re.sub(f"^{ours}", theirs, name)
        return name

    return {rename(name): w for name, w in weights.items()}


PROXYLESS_POSITIONS = {  # of the blocks that their authors' networks keep
    "proxyless-cpu": [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 12], [13, 14, 15, 16], [17, 18, 19, 20], [21]],
    "proxyless-gpu": [[0], [1], [5, 8], [9, 12], [13, 15, 16], [17, 18, 19, 20], [21]],
    "proxyless-mobile": [
        [0],
        [1, 2],
        [*range(5, 9)],
        [*range(9, 13)],
        [*range(13, 17)],
        [*range(17, 21)],
        [21],
    ],
}


def proxyless_table(positions: list[list[int]]) -> dict[str, str]:
    table = {
        r"stem\.0": "first_conv.conv",
        r"stem\.1": "first_conv.bn",
        r"feature_mix_layer\.0": "feature_mix_layer.conv",
        r"feature_mix_layer\.1": "feature_mix_layer.bn",
        r"classifier": "classifier.linear",
    }
    parts = ("inverted_bottleneck", "depth_conv", "point_linear")
    for stage, kept in enumerate(positions):
        for block, position in enumerate(kept):
            place = rf"blocks\.{stage}\.{block}" if stage else r"blocks\.0"
            for number, part in enumerate(parts if stage else parts[1:]):
                theirs = f"blocks.{position}.mobile_inverted_conv.{part}"
                table[rf"{place}\.{3 * number}\."] = f"{theirs}.conv."
                table[rf"{place}\.{3 * number + 1}\."] = f"{theirs}.bn."
    return table


NASBENCH201 = {
    r"layers\.(\d+)\.edges\.0\.0\.": r"cells.\1.layers.0.op.",
    r"layers\.(\d+)\.edges\.1\.0\.": r"cells.\1.layers.1.op.",
    r"layers\.(\d+)\.edges\.1\.1\.": r"cells.\1.layers.2.op.",
    r"layers\.(\d+)\.edges\.2\.0\.": r"cells.\1.layers.3.op.",
    r"layers\.(\d+)\.edges\.2\.1\.": r"cells.\1.layers.4.op.",
    r"layers\.(\d+)\.edges\.2\.2\.": r"cells.\1.layers.5.op.",
    r"layers\.(\d+)\.conv1\.": r"cells.\1.conv_a.op.",
    r"layers\.(\d+)\.conv2\.": r"cells.\1.conv_b.op.",
    r"layers\.(\d+)\.shortcut\.": r"cells.\1.downsample.",
    r"head\.0\.": "lastact.0.",
}
AUTOFORMER = {
    r"class_token\.token$": "cls_token.cls_token",
    r"class_token\.position$": "pos_embed.pos_embed",
    r"(blocks\.\d+\.attn\.rel_pos_embed_[kv])\.vertical": r"\1.embeddings_table_v",
    r"(blocks\.\d+\.attn\.rel_pos_embed_[kv])\.horizontal": r"\1.embeddings_table_h",
}
NNI_STAGE = {r"blocks\.6\.0\.": "blocks.6."}
SPOS = {r"classifier\.": "classifier.0."}


@pytest.mark.parametrize(
    ("name", "table", "layout", "arguments"),
    [
        *(
            (name, proxyless_table(positions), "ProxylessNAS", {"num_classes": 7})
            for name, positions in PROXYLESS_POSITIONS.items()
        ),
        ("acenas-m1", NNI_STAGE, "ProxylessNAS of NNI", {"num_classes": 7}),
        ("spos", SPOS, "SPOS", {"num_classes": 7}),
        ("autoformer-tiny", AUTOFORMER, "AutoFormer of NNI", {"num_classes": 7}),
        ("nb201-all-conv3x3", NASBENCH201, "NAS-Bench-201", {"width": 4, "num_cells": 2, "num_classes": 7}),
        ("mobilenetv3-small-050", {}, "the names of spacelang", {"num_classes": 7}),
    ],
)
def test_every_tensor_finds_its_place(
    name: str, table: dict[str, str], layout: str, arguments: dict[str, Any], tmp_path: Path
) -> None:
    """From a checkpoint of nn.DataParallel, of a torch whose batch norms had no counters."""
    weights = distinct(load(name, **arguments))
    theirs = renamed(weights, table)
    assert len(theirs) == len(weights)
    theirs = {f"module.{k}": w for k, w in theirs.items() if not k.endswith("num_batches_tracked")}
    torch.save({"epoch": 3, "state_dict": theirs, "optimizer": {}}, tmp_path / "net.pth.tar")
    done = convert_checkpoint(tmp_path / "net.pth.tar", name, tmp_path / "out")
    assert done.layout.startswith(layout)
    assert done.arguments == arguments
    converted = load(name, pretrained=tmp_path / "out", **arguments).state_dict()
    for key, w in weights.items():
        expected = torch.tensor(0) if key.endswith("num_batches_tracked") else w
        assert torch.equal(converted[key], expected), key
    assert done.new_counters == len(weights) - len(theirs)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "net.", "model._orig_mod.module."])
def test_prefixes_that_all_names_share(prefix: str) -> None:
    model = load("darts-v2", num_classes=2, **SIZES)
    weights = model.state_dict()
    wrapped = {prefix + name: tensor for name, tensor in weights.items()}
    assert convert_weights(wrapped, model).keys() == weights.keys()
    whole = nn.ModuleDict({"model": model})  # a network whose own names begin so
    assert convert_weights(whole.state_dict(), whole).keys() == whole.state_dict().keys()


# -- once-for-all --------------------------------------------------------------------------------------

OFA = {
    r"stem\.0\.": "first_conv.conv.",
    r"stem\.1\.": "first_conv.bn.",
    r"head\.0\.0\.": "final_expand_layer.conv.",
    r"head\.0\.1\.": "final_expand_layer.bn.",
    r"head\.2\.": "feature_mix_layer.conv.",
    r"classifier\.1\.": "classifier.linear.",
    r"blocks\.0\.0\.": "blocks.0.CONV.depth_conv.conv.",
    r"blocks\.0\.1\.": "blocks.0.CONV.depth_conv.bn.",
    r"blocks\.0\.3\.": "blocks.0.CONV.point_linear.conv.",
    r"blocks\.0\.4\.": "blocks.0.CONV.point_linear.bn.",
}
OFA_LAYERS = (
    "inverted_bottleneck.conv",
    "inverted_bottleneck.bn",
    "",
    "depth_conv.conv",
    "depth_conv.bn",
    "",
)
OFA_SIZES = {  # blocks of the five units, as (kernel, expansion)
    1: [(3, 4), (7, 3)],
    2: [(5, 6), (3, 3), (7, 4)],
    3: [(3, 3), (5, 4), (3, 6), (7, 6)],
    4: [(7, 6), (3, 3)],
    5: [(5, 4), (5, 3), (3, 6)],
}


def ofa_arch() -> dict[str, Any]:
    arch: dict[str, Any] = {}
    for unit, blocks in OFA_SIZES.items():
        arch[f"s{unit}_depth"] = len(blocks)
        for i, (kernel, ratio) in enumerate(blocks):
            arch |= {f"s{unit}_i{i}_ks": kernel, f"s{unit}_i{i}_exp": ratio}
    return arch


def ofa_table(depths: list[int], inner: str, dynamic: bool) -> dict[str, str]:
    """Names of the authors: `inner` is the block in one of two generations; elastic layers hold a layer."""
    table = {ours: theirs.replace("CONV", inner) for ours, theirs in OFA.items()}
    number = 0
    for unit, depth in enumerate(depths, start=1):
        gated = unit in (2, 4, 5)
        for block in range(depth):
            number += 1
            layers = list(OFA_LAYERS)
            layers += ["depth_conv.se.fc", "point_linear.conv", "point_linear.bn"][0 if gated else 1 :]
            for index, layer in enumerate(layers):
                ours = rf"blocks\.{unit}\.(blocks\.)?{block}\.{index}\.(largest\.)?"
                theirs = f"blocks.{number}.{inner}.{layer}."
                if layer.endswith("fc"):
                    table[rf"{ours}conv_(reduce|expand)\.(largest\.)?"] = rf"{theirs}\3."
                    continue
                if dynamic and layer == "depth_conv.conv":
                    table[rf"{ours}transform_(\d)_to_(\d)$"] = rf"{theirs}\3to\4_matrix"
                table[ours] = theirs + f"{layer.rpartition('.')[2]}." * dynamic
    return table


@pytest.mark.parametrize("inner", ["conv", "mobile_inverted_conv"])
def test_a_network_of_once_for_all(tmp_path: Path, capsys: pytest.CaptureFixture[str], inner: str) -> None:
    """Its architecture is read from the shapes."""
    torch.manual_seed(0)
    with model_context(ofa_arch()):
        model = OnceForAll(7, width_multiplier=0.5, dropout_rate=0.0)
    images = torch.randn(8, 3, 64, 64)
    use_statistics_of(model, images)
    theirs = renamed(
        model.state_dict(), ofa_table([len(blocks) for blocks in OFA_SIZES.values()], inner, dynamic=False)
    )
    assert f"blocks.4.{inner}.depth_conv.se.fc.reduce.weight" in theirs
    assert not theirs.keys() & model.state_dict().keys()
    torch.save({"state_dict": theirs}, tmp_path / "init.pth")
    words = ["--name", "ofa-mbv3-largest", "--output", str(tmp_path / "out")]
    assert main(["convert", str(tmp_path / "init.pth"), *words]) == 0
    told = capsys.readouterr().out
    assert f"load_bundle('{tmp_path / 'out'}', space=hub.OnceForAll).model" in told
    bundle = load_bundle(tmp_path / "out", space=OnceForAll)
    assert bundle.arch == ofa_arch()
    assert bundle.model is not None
    assert torch.equal(bundle.model.eval()(images), model.eval()(images))


def test_a_supernet_of_once_for_all_fills_the_space() -> None:
    """Every subnet of it then computes what the authors' does, before its batch norms are estimated."""
    torch.manual_seed(0)
    space = OnceForAll(7, width_multiplier=0.5)
    weights = distinct(space)
    theirs = renamed(weights, ofa_table([4] * 5, "mobile_inverted_conv", dynamic=True))
    assert "blocks.1.mobile_inverted_conv.depth_conv.conv.7to5_matrix" in theirs
    assert "blocks.1.mobile_inverted_conv.depth_conv.conv.conv.weight" in theirs
    assert len(theirs) == 475
    converted = convert_weights(theirs, space)
    assert converted.keys() == weights.keys()
    assert all(torch.equal(converted[name], w) for name, w in weights.items())
    space.load_state_dict(converted)
    kernel = weights["blocks.1.blocks.0.3.largest.weight"][:, :, 1:6, 1:6].flatten(2)
    five = kernel @ weights["blocks.1.blocks.0.3.largest.transform_7_to_5"].T
    frozen: Any = space.freeze({**space.largest, "s1_i0_ks": 5})
    assert torch.equal(frozen.blocks[1][0][3].weight.flatten(2), five)


# -- the command ---------------------------------------------------------------------------------------


def exchanged(arch: Mapping[str, Any], node: int) -> dict[str, Any]:
    """Return an architecture with the two inputs of a node of the normal cell exchanged."""
    first, second = f"normal/input_{node}_0", f"normal/input_{node}_1"
    return {**arch, first: arch[second], second: arch[first]}


def network(name: str = "darts-v2", swapped: bool = False, **options: Any) -> tuple[Network, Tensor]:
    """Build a network in the layout of the original DARTS, and images whose statistics its norms have."""
    torch.manual_seed(3)
    arch = architecture(name)
    if swapped:
        arch = exchanged(arch, 3)
    made = Network(to_genotype(arch), cell=DartsCell, stages=False, **{**SIZES, **options})
    for parameter in made.parameters():
        if parameter.dim() == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
    size = 64 if "imagenet" in options else 32
    images = torch.randn(32, 3, size, size) * torch.rand(32, 3, 1, 1)
    if "imagenet" not in options:
        use_statistics_of(made, images)
    return made.eval(), images


def test_a_checkpoint_becomes_a_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs, images = network()
    torch.save(theirs.state_dict(), tmp_path / "weights.pt")
    np.save(tmp_path / "images.npy", images.numpy())
    words = ["--name", "darts-v2", "--output", str(tmp_path / "out"), "--check", str(tmp_path / "images.npy")]
    assert main(["convert", str(tmp_path / "weights.pt"), *words]) == 0
    told = capsys.readouterr().out
    assert "names: quark0/darts" in told
    assert "normal/op_2_0=sep_conv_3x3, normal/input_2_0=0" in told
    assert "left out: the auxiliary head, 14 tensors" in told
    assert "batch norms, divergence at most" in told
    call = f"hub.load('darts-v2', pretrained='{tmp_path / 'out'}', num_classes=5, num_cells=5, width=4)"
    assert call in told
    model = load("darts-v2", pretrained=tmp_path / "out", num_classes=CLASSES, **SIZES).eval()
    torch.testing.assert_close(model(images), theirs(images)[0])
    assert int(model.stem0[1].num_batches_tracked) == 1  # kept, as the file has it
    bundle = load_bundle(tmp_path / "out", space=DARTS)
    assert bundle.model is not None
    assert torch.equal(bundle.model.eval()(images), model(images))
    assert len(bundle.metadata["checkpoint_sha256"]) == 64
    assert bundle.metadata["images"].startswith("32x32 RGB images, 0 to 1, minus (0.4914, 0.4822, 0.4465)")


def test_a_network_of_drnas(tmp_path: Path) -> None:
    """The batch norms of its pools are arguments of the network, read from the file."""
    torch.manual_seed(3)
    genotype = to_genotype(architecture("drnas-cifar10"))
    theirs = Network(genotype, cell=DrnasCell, stages=False, **SIZES)
    images = torch.randn(32, 3, 32, 32) * torch.rand(32, 3, 1, 1)
    use_statistics_of(theirs, images)
    theirs.eval()
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "weights.pt")
    np.save(tmp_path / "images.npy", images.numpy())
    done = convert_checkpoint(
        tmp_path / "weights.pt", "drnas-cifar10", tmp_path / "out", images=tmp_path / "images.npy"
    )
    assert (done.layout, done.arguments) == ("DrNAS", {"num_classes": CLASSES, **SIZES})
    model = load("drnas-cifar10", pretrained=tmp_path / "out", **done.arguments).eval()
    torch.testing.assert_close(model(images), theirs(images)[0])


def test_plain_pools_of_a_genotype_of_drnas(tmp_path: Path) -> None:
    """Trained with the code of the original DARTS; and the other way round."""
    for name, cell, norms in (("drnas-cifar10", DartsCell, False), ("darts-v2", DrnasCell, True)):
        theirs = Network(to_genotype(architecture(name)), cell=cell, stages=False, **SIZES)
        torch.save(theirs.state_dict(), tmp_path / f"{name}.pt")
        done = convert_checkpoint(tmp_path / f"{name}.pt", name, tmp_path / name)
        assert done.arguments == {"num_classes": CLASSES, "pool_norms": norms, **SIZES}


def test_an_imagenet_network_with_a_norm_more_in_its_auxiliary_head(tmp_path: Path) -> None:
    """As P-DARTS and SGAS train; the head has no part in the result."""
    theirs, _ = network(imagenet=True, second_norm=True)
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "net.pt")
    done = convert_checkpoint(tmp_path / "net.pt", "darts-v2", tmp_path / "out")
    assert done.arguments == {"num_classes": CLASSES, "dataset": "imagenet", **SIZES}
    assert str(done.preparation).startswith("224x224 RGB")
    model: Any = load("darts-v2", pretrained=tmp_path / "out", **done.arguments).eval()
    own = theirs.state_dict()
    reduction = model.cells[0].frame.preprocessor.preprocess0[1]
    assert torch.equal(reduction.conv1.weight, own["cells.0.preprocess0.conv_2.weight"])
    assert torch.equal(model.classifier.bias, own["classifier.bias"])


def test_another_wiring_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs, images = network(swapped=True)
    torch.save(theirs.state_dict(), tmp_path / "net.pt")
    torch.save(images, tmp_path / "images.pt")
    words = [str(tmp_path / "net.pt"), "--name", "darts-v2", "--output", str(tmp_path / "out")]
    assert main(["convert", *words, "--check", str(tmp_path / "images.pt")]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert "does not compute what it did in training: the inputs of 'cells." in told
    assert not (tmp_path / "out").exists()
    assert main(["convert", *words]) == 0  # the shapes are the same
    assert "not checked" in capsys.readouterr().out


@pytest.mark.slow
def test_the_check_knows_a_trained_network() -> None:
    """The shipped network passes on images that it was not trained on; with exchanged inputs it does not."""
    images = torch.stack([digits().test[i][0] for i in range(64)])
    trained: Any = load("darts-digits", pretrained=True)
    before = {name: w.clone() for name, w in trained.state_dict().items()}
    right = check_norms(trained, images)
    assert right.passed
    assert right.divergence == pytest.approx(0.005, abs=0.002)
    assert all(torch.equal(w, before[name]) for name, w in trained.state_dict().items())
    for node in (2, 5):
        with model_context(exchanged(architecture("darts-digits"), node)):
            wrong = DARTS(**trained.arguments)
        wrong.load_state_dict(trained.state_dict())
        assert not check_norms(wrong, images).passed
    assert not check_norms(trained, images * 16).passed  # 0 to 16, as scikit-learn has them


def test_divergence_is_that_of_two_normal_distributions() -> None:
    """KL(N(1, 4) || N(0, 1)) = (4 + 1 - 1 - ln 4) / 2 = 1.30685."""
    norm = nn.BatchNorm2d(1)
    images = torch.tensor([-1.0, 3.0]).reshape(2, 1, 1, 1)
    result = check_norms(nn.Sequential(norm), images)
    assert (result.norms, result.worst) == (1, "0")
    assert result.divergence == pytest.approx(1.3068528, rel=1e-4)  # the norm adds 1e-5 to both variances


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    """Prepared as the layout says: a grey 0.5 becomes (0.5 - mean) / std, blue first for SPOS."""
    from PIL import Image

    from spacelang.hub.published.check_images import Preparation, read_images

    (tmp_path / "class").mkdir()
    for number in range(16):
        Image.new("RGB", (6, 4), (255, 51, 0)).save(tmp_path / "class" / f"{number}.png")
    rgb = Preparation(2, 4, (0.5, 0.2, 0.0), (0.5, 1.0, 1.0))
    bgr = Preparation(2, 4, (0.0, 0.0, 0.0), (1 / 255,) * 3, bgr=True)
    for preparation, expected in ((rgb, (1.0, 0.0, 0.0)), (bgr, (0.0, 51.0, 255.0))):
        images = read_images(tmp_path, preparation)
        assert images.shape == (16, 3, 2, 2)
        torch.testing.assert_close(images[0, :, 0, 0], torch.tensor(expected))
    with pytest.raises(SpaceError, match="does not tell how the pictures"):
        read_images(tmp_path, None)
    (tmp_path / "class" / "x.png").write_text("no picture")
    with pytest.raises(SpaceError, match=r"cannot read the picture '.*x\.png'"):
        read_images(tmp_path, rgb)


# -- refusals ------------------------------------------------------------------------------------------

ONE = torch.zeros(1)
REFUSED = {
    "cells.0._ops.0._ops.0.op.1.weight": "this is a search checkpoint of DARTS",
    "blocks.1.conv.depth_conv.conv.7to5_matrix": "this is a supernet of once-for-all",
    "features.0.1.branch_main.0.weight": "this is a supernet of SPOS",
    "what.is.this": "has names of no known layout: 'what.is.this'",
}


@pytest.mark.parametrize(("key", "message"), REFUSED.items())
def test_layouts_that_cannot_be_converted(
    key: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({key: ONE}, tmp_path / "net.pt")
    out = ["--output", str(tmp_path / "out")]
    assert main(["convert", str(tmp_path / "net.pt"), "--name", "darts-v2", *out]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert message in told
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt"]


def test_a_pickled_network_is_not_run(tmp_path: Path) -> None:
    torch.save(nn.Linear(1, 1), tmp_path / "net.pt")
    with pytest.raises(SpaceError, match=r"nothing in it was run.*save its state_dict\(\)"):
        convert_checkpoint(tmp_path / "net.pt", "darts-v2", tmp_path / "out")


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs, images = network()
    torch.save(theirs.state_dict(), tmp_path / "net.pt")
    torch.save(images[:15], tmp_path / "few.pt")
    np.save(tmp_path / "small.npy", np.zeros((16, 1, 8, 8)))
    net = str(tmp_path / "net.pt")
    out = ["--output", str(tmp_path / "out")]
    for words, message in (
        ([net], "Missing option '--name'"),
        ([net, "--name", "darts-v3"], "closest names are 'darts-v2'"),
        ([net, "--name", "darts-v1"], "do not fit DARTS"),
        ([net, "--name", "spos"], "do not fit ShuffleNetSpace"),
        ([str(tmp_path / "none.pt"), "--name", "darts-v2"], "does not exist"),
        ([net, "--name", "darts-v2", "--check", str(tmp_path / "few.pt")], "at least 16 images"),
        ([net, "--name", "darts-v2", "--check", net], "expected one tensor of images"),
        (
            [net, "--name", "darts-v2", "--check", str(tmp_path / "small.npy")],
            "cannot compute images",
        ),
    ):
        assert main(["convert", *words, *out]) == 2
        (told,) = capsys.readouterr().err.splitlines()
        assert message in told
    assert not (tmp_path / "out").exists()
