"""Small networks of torchvision, timm and transformers as spaces: cut, searched and exported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import timm
import torch
import transformers
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import mobilenet_v3_small
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.densenet import DenseNet
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.vision_transformer import VisionTransformer

from spacelang import (
    Experiment,
    ModelSpace,
    OneOf,
    Supernet,
    Width,
    export_onnx,
    profile,
    searchable,
    suggest,
)
from spacelang.costs import expected_cost
from spacelang.evaluators import Functional, Lightning
from spacelang.strategies import RandomOneShot
from spacelang.strategies.multi_trial import Random
from tests.models.networks import randomised, size

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randint(1, 100, (4, 12), generator=torch.Generator().manual_seed(0))
RELU = OneOf({"relu": lambda activation: nn.ReLU()})
POINTWISE = OneOf({"pointwise": lambda conv: nn.Conv2d(conv.in_channels, conv.out_channels, 1, bias=False)})
TINY: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
SPECIAL = {"bos_token_id": 0, "eos_token_id": 0}
SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 10}
NEXT = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32), "num_classes": 10}
STAGES = [CNBlockConfig(16, 32, 2), CNBlockConfig(32, None, 2)]
BERT = transformers.BertConfig(**TINY, vocab_size=100)
VIT = transformers.ViTConfig(**TINY, image_size=32, patch_size=8)
GPT2 = transformers.GPT2Config(
    n_embd=32,
    n_layer=2,
    n_head=4,
    vocab_size=100,
    n_positions=32,
    bos_token_id=0,
    eos_token_id=0,
    use_cache=False,
)


@dataclass(frozen=True)
class Case:
    """A network, its input, and the choices found in it: blocks, widths, attention modules.

    Args:
        make: Makes the network.
        inputs: Batch of four.
        found: Numbers of choices that `suggest` finds.
        further: Choices that it does not.
        is_exported: Whether its export to ONNX is tested; there are others like the rest.
    """

    make: Callable[[], nn.Module]
    inputs: Tensor
    found: tuple[int, int, int]
    further: dict[str, Any] = field(default_factory=dict)
    is_exported: bool = True


CASES = {
    "resnet": Case(
        lambda: ResNet(BasicBlock, [1, 2, 1, 1], num_classes=10),
        IMAGES,
        (2, 5, 0),
        {"layer2.*.conv2": POINTWISE},
    ),
    "mobilenet": Case(
        lambda: mobilenet_v3_small(num_classes=10),
        IMAGES,
        (6, 23, 0),
        {"classifier.1": OneOf({"silu": nn.SiLU()})},  # a ReLU may not be followed by its Dropout in place
        is_exported=False,
    ),
    "densenet": Case(
        lambda: DenseNet(8, (2, 1), 8, bn_size=2, num_classes=10),
        IMAGES,
        (0, 1 + 6 + 1, 0),
        is_exported=False,
    ),
    "swin": Case(
        lambda: SwinTransformer([2, 2], 16, [2, 2], [2, 4], [3, 3], num_classes=10),
        IMAGES,
        (4, 4, 0),
        {"features.3.*.attn.num_heads": Width([1, 0.5, 1.0])},
    ),
    "vit": Case(
        lambda: VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=10),
        IMAGES,
        (2, 2, 0),
        {"encoder.layers.*.self_attention.num_heads": Width([1, 0.5, 1.0]), "encoder.layers.*.mlp.1": RELU},
    ),
    "convnext": Case(
        lambda: ConvNeXt(STAGES, num_classes=10), IMAGES, (4, 4, 0), {"features.1.*.block.4": RELU}
    ),
    "timm vit": Case(
        lambda: timm.create_model("vit_tiny_patch16_224", **SMALL),
        IMAGES,
        (2, 2, 2),
        {"blocks.*.mlp.act": RELU},
    ),
    "timm convnextv2": Case(
        lambda: timm.create_model("convnextv2_atto", **NEXT), IMAGES, (5, 5, 0), is_exported=False
    ),
    "bert": Case(
        lambda: transformers.BertForSequenceClassification(BERT),
        TOKENS,
        (0, 3, 2),
        {"bert.encoder.layer.*.intermediate.intermediate_act_fn": RELU},
    ),
    "gpt2": Case(
        lambda: transformers.GPT2LMHeadModel(GPT2), TOKENS, (2, 2, 2), {"transformer.h.*.mlp.act": RELU}
    ),
    "hf vit": Case(lambda: transformers.ViTForImageClassification(VIT), IMAGES, (2, 2, 2), is_exported=False),
}


def output(model: nn.Module, x: Tensor) -> Tensor:
    """Return the tensor that a model computes; those of transformers return it in a dict."""
    returned = model(x)
    return returned if isinstance(returned, Tensor) else returned["logits"]


@pytest.fixture(scope="module", params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def model(case: Case) -> nn.Module:
    return randomised(case.make())


@pytest.fixture(scope="module")
def inputs(case: Case) -> Tensor:
    return case.inputs.double() if case.inputs.is_floating_point() else case.inputs


@pytest.fixture(scope="module")
def space(case: Case, model: nn.Module, inputs: Tensor) -> ModelSpace:
    choices = suggest(model, inputs) | case.further
    made = searchable(model, choices, inputs)
    labels = [decision.label for decision in made.decisions]
    skips = [d for d in made.decisions if d.candidates == ("keep", "skip")]
    widths = [label for label in labels if label.endswith((".out_channels", ".out_features", ".nf"))]
    replaced = [d for d in made.decisions if d.candidates[0] == "original"]
    further = 2 * any(isinstance(chosen, Width) for chosen in case.further.values())
    assert bool(replaced) == any(isinstance(chosen, OneOf) for chosen in case.further.values())
    heads = len(labels) - len(skips) - len(widths) - len(replaced) - further
    assert (len(skips), len(widths), heads) == case.found
    return made


def whole(space: ModelSpace) -> dict[str, Any]:
    """Return the architecture of the model as it was."""
    return {d.label: extreme(d.candidates, max, 0) for d in space.decisions}


def smallest(space: ModelSpace) -> dict[str, Any]:
    """Return the architecture of all blocks, the least widths, and the replaced layers."""
    return {
        d.label: "keep" if "keep" in d.candidates else extreme(d.candidates, min, -1) for d in space.decisions
    }


def extreme(candidates: Sequence[Any], of_sizes: Callable[[Sequence[Any]], Any], place: int) -> Any:
    """Return the largest or smallest of sizes, or the candidate at a place of others."""
    return candidates[place] if isinstance(candidates[0], str) else of_sizes(candidates)


def test_sorted_channels_and_heads_keep_the_function(
    space: ModelSpace, model: nn.Module, inputs: Tensor
) -> None:
    frozen = space.freeze(whole(space))
    assert type(frozen) is type(model)
    before, after = model.state_dict(), frozen.state_dict()
    assert list(before) == list(after)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    expected = output(model, inputs)
    assert (output(frozen, inputs) - expected).abs().max() < 1e-9 * expected.abs().max()


def test_supernets_and_costs_are_those_of_frozen_models(space: ModelSpace, inputs: Tensor) -> None:
    supernet = Supernet(space, memory_format=None).eval()
    parameters, flops = expected_cost(space, "params"), expected_cost(space, "flops", inputs)
    rng = np.random.default_rng(0)
    for arch in (smallest(space), space.sample(rng)):
        frozen = space.freeze(arch)
        supernet.select(arch)
        assert torch.equal(output(supernet, inputs), output(frozen, inputs))
        assert parameters.of(arch) == size(frozen)
        assert flops.of(arch) == profile(frozen, inputs).flops


class Training(pl.LightningModule):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: Any, index: int) -> Tensor:
        return output(self.model, batch[0]).float().square().mean()

    def validation_step(self, batch: Any, index: int) -> None:
        self.log("val_loss", output(self.model, batch[0]).float().square().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.model.parameters(), lr=0.01)


@pytest.mark.slow
def test_searched_in_one_shot_and_by_trials(case: Case, tmp_path: Path) -> None:
    model = case.make()
    space = searchable(model, suggest(model, case.inputs) | case.further, case.inputs)
    loader = DataLoader(TensorDataset(case.inputs), batch_size=2)
    evaluator = Lightning(Training, train_dataloaders=loader, val_dataloaders=loader, max_epochs=1)
    strategy = RandomOneShot(candidates=2, finalists=1, calibration_batches=1, metric="val_loss", mode="min")
    experiment = Experiment(space, evaluator, strategy, directory=tmp_path / "one_shot")
    experiment.run()
    space.validate(experiment.best)
    assert type(experiment.supernet.freeze(experiment.best)) is type(model)
    measured = Functional(lambda model: -float(size(model)))
    experiment = Experiment(space, measured, Random(), directory=tmp_path / "trials", max_trials=2)
    experiment.run()
    assert len(experiment.history.done) == 2


@pytest.mark.slow
def test_exported_to_onnx(case: Case, tmp_path: Path) -> None:
    if not case.is_exported:
        pytest.skip("others like it are exported")
    model = case.make()
    space = searchable(model, suggest(model, case.inputs) | case.further, case.inputs)
    frozen = space.freeze(smallest(space)).eval()
    exported = export_onnx(frozen, tmp_path / "model.onnx", case.inputs)  # compares with onnxruntime
    assert exported.path.exists()
