"""The examples that search digits, in their shortest form, and what they claim."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from spacelang import Supernet, model_context
from spacelang.results import read_onnx_architecture

pytestmark = pytest.mark.slow

Load = Callable[[str], ModuleType]


def test_every_example_is_short(repository: Path) -> None:
    for path in (repository / "examples").glob("*.py"):
        assert len(path.read_text().splitlines()) < 100, path.name


def test_custom_space_ends_in_an_onnx_file(
    example: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = example("custom_space")
    module.main(["--directory", str(tmp_path), "--epochs", "1"])
    assert "test accuracy" in capsys.readouterr().out
    module.DigitsSpace().validate(read_onnx_architecture(tmp_path / "model.onnx"))


def test_custom_space_selected_equals_frozen(example: Load) -> None:
    space = example("custom_space").DigitsSpace(width=4).double().eval()
    supernet = Supernet(space)
    images = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    rng = np.random.default_rng(0)
    for _ in range(5):
        arch = space.sample(rng)
        supernet.select(arch)
        assert torch.equal(supernet(images), supernet.freeze(arch)(images))
        torch.testing.assert_close(space.freeze(arch)(images), supernet(images), rtol=0, atol=1e-12)


def test_custom_primitive_runs(example: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example("custom_primitive").main(["--directory", str(tmp_path), "--epochs", "1"])
    assert "test accuracy" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["search", "training"]


def test_custom_primitive_becomes_plain_convolutions(example: Load) -> None:
    module = example("custom_primitive")
    space = module.Net().double().eval()
    supernet = Supernet(space).eval()
    images = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    assert space.size() == 9
    for arch in space.grid():
        supernet.select(arch)
        frozen = supernet.freeze(arch)
        torch.testing.assert_close(supernet(images), frozen(images), rtol=0, atol=1e-12)
        assert torch.equal(space.freeze(arch)(images), frozen(images))
        with model_context(arch):
            fresh = module.Net()
        for model in (frozen, fresh):
            convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
            assert [m.kernel_size[0] for m in convolutions] == list(arch.values())
            assert not any(type(m).__module__ == module.__name__ for m in model.layers)


def test_the_mixed_kernel_computes_the_mixture_of_outputs(example: Load) -> None:
    module = example("custom_primitive")
    supernet = Supernet(module.Net().double())
    mixed = supernet.network.layers[0]
    weights = torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64)
    supernet.set_mixture({"first": weights})
    images = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    outputs = [mixed.freeze({"first": size})(images) for size in (1, 3, 5)]
    expected = sum(w * y for w, y in zip(weights[0], outputs, strict=True))
    torch.testing.assert_close(mixed(images), expected, rtol=0, atol=1e-12)


def test_prune_resnet_prints_accuracy_against_flops(
    example: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = example("prune_resnet")
    module.main(["--directory", str(tmp_path), "--epochs", "1", "--trials", "3", "--shares", "0.5"])
    printed = capsys.readouterr().out
    table = printed[printed.index("FLOPs  accuracy") :].splitlines()[1:]
    assert "7,056 architectures" in printed  # (4 + 16 + 64) ** 2
    whole, uniform, found = [int(line.split()[0].replace(",", "")) for line in table]
    assert whole == 3_426_944
    assert found <= uniform < whole
    assert [line[22:].strip() for line in table] == ["as it was", "all widths x 0.5", "searched"]
