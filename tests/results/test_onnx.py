"""ONNX: one real export, checked from every side; refusals need none."""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from spacelang import SpaceError, export_onnx, model_context
from spacelang.results import OnnxExport, onnx_export, read_onnx_architecture


@dataclass
class Exported:
    model: nn.Module
    result: OnnxExport
    output: str
    state: dict[str, Tensor]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: Any, space_class: Any, conv_arch: dict[str, Any]) -> Exported:
    """A training-mode model with one submodule in evaluation mode, exported once."""
    folder = tmp_path_factory.mktemp("onnx")
    torch.manual_seed(0)
    with model_context(conv_arch):
        model = space_class().train()
    model.norm.eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    capture = pytest.MonkeyPatch()
    written: list[str] = []
    for stream in ("stdout", "stderr"):
        capture.setattr(getattr(sys, stream), "write", lambda text: written.append(text) or len(text))
    try:
        result = export_onnx(model, folder / "net.onnx", torch.randn(1, 1, 8, 8), arch=conv_arch)
    finally:
        capture.undo()
    return Exported(model, result, "".join(written), state)


@pytest.mark.slow
def test_result(exported: Exported) -> None:
    result = exported.result
    assert result.path.name == "net.onnx"
    assert [file.name for file in result.path.parent.iterdir()] == [
        "net.onnx"
    ]  # no temporary or external data
    assert result.size_bytes == result.path.stat().st_size
    assert result.max_difference < 1e-4
    proto = onnx.load(result.path)
    assert result.opset == next(entry.version for entry in proto.opset_import if entry.domain == "")
    onnx.checker.check_model(proto, full_check=True)


def test_named_dynamic_batch(exported: Exported) -> None:
    proto = onnx.load(exported.result.path)
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert proto.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim][1:] == [1, 8, 8]
    assert proto.graph.output[0].name == "output"


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_onnxruntime_agrees(exported: Exported, batch: int) -> None:
    x = torch.randn(batch, 1, 8, 8)
    session = onnxruntime.InferenceSession(str(exported.result.path))
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    model = exported.model
    modes = [module.training for module in model.modules()]
    with torch.no_grad():
        expected = model.eval()(x).numpy()
    for module, training in zip(model.modules(), modes, strict=True):
        module.training = training
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_architecture_is_in_the_file(exported: Exported, conv_arch: dict[str, Any]) -> None:
    assert read_onnx_architecture(exported.result.path) == conv_arch
    assert list(read_onnx_architecture(exported.result.path)) == list(conv_arch)


def test_no_local_paths_in_the_file(exported: Exported) -> None:
    data = exported.result.path.read_bytes()
    places = [str(Path.home()), str(Path.cwd()), str(Path(torch.__file__).parent), str(Path(__file__).parent)]
    for needle in (*(place for place in places if len(place) > 1), "site-packages", ".py", "stack_trace"):
        assert needle.encode() not in data, needle
    proto = onnx.load(exported.result.path)
    assert [entry.key for entry in proto.metadata_props] == ["spacelang.architecture"]
    assert not any(node.metadata_props or node.doc_string for node in proto.graph.node)
    assert not any(tensor.metadata_props or tensor.doc_string for tensor in proto.graph.initializer)


def test_model_is_untouched(exported: Exported) -> None:
    model = exported.model
    assert model.training
    assert [name for name, module in model.named_modules() if not module.training] == ["norm"]
    assert all(torch.equal(exported.state[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_exporter_is_silent(exported: Exported) -> None:
    assert exported.output == ""


def test_refuses_a_space(tmp_path: Path, space_class: Any) -> None:
    with pytest.raises(SpaceError, match=r"cannot export ConvSpace.*space\.freeze\(arch\).*model_context"):
        export_onnx(space_class(), tmp_path / "net.onnx", torch.zeros(1, 1, 8, 8))
    assert not list(tmp_path.iterdir())


def test_bad_arguments(tmp_path: Path) -> None:
    model, x = nn.Linear(3, 3), torch.ones(1, 3)
    with pytest.raises(SpaceError, match=r"must end in \.onnx; for example 'net\.onnx'"):
        export_onnx(model, tmp_path / "net.pt", x)
    with pytest.raises(SpaceError, match="does not exist"):
        export_onnx(model, tmp_path / "no" / "net.onnx", x)
    with pytest.raises(SpaceError, match="batch_sizes"):
        export_onnx(model, tmp_path / "net.onnx", x, batch_sizes=())
    with pytest.raises(SpaceError, match="example_inputs"):
        export_onnx(model, tmp_path / "net.onnx", torch.tensor(1.0))
    with pytest.raises(SpaceError, match=r"arch\['a'\]"):
        export_onnx(model, tmp_path / "net.onnx", x, arch={"a": object()})
    with pytest.raises(SpaceError, match=r"fails for an input of shape \(1, 4\)"):
        export_onnx(model, tmp_path / "net.onnx", torch.ones(1, 4))
    with pytest.raises(SpaceError, match=r"\(4, 3\), \(2, 5\), which have no common batch .* dynamic="):
        export_onnx(model, tmp_path / "net.onnx", (torch.ones(4, 3), torch.ones(2, 5)))
    with pytest.raises(SpaceError, match=r"a dict for each of 1 inputs.*\(1, 3\)"):
        export_onnx(model, tmp_path / "net.onnx", x, dynamic=[{0: "rows"}])
    with pytest.raises(SpaceError, match=r"compared= goes with dynamic="):
        export_onnx(model, tmp_path / "net.onnx", x, compared=[(x,)])
    assert not list(tmp_path.iterdir())


class Lookup(nn.Module):
    """The sum of the rows that an index names, and a scale; inputs have no common batch."""

    def forward(self, rows: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return rows * rows[index[0]].sum()


def test_inputs_without_a_common_batch(tmp_path: Path) -> None:
    rows, index = torch.arange(6.0).view(3, 2), torch.tensor([[0, 2, 1, 1], [0, 0, 0, 0]])
    other = torch.ones(5, 2), torch.tensor([[4, 4], [0, 0]])
    dynamic = [{0: "rows"}, {1: "entries"}]
    written = export_onnx(Lookup(), tmp_path / "net.onnx", (rows, index), dynamic=dynamic, compared=[other])
    assert written.max_difference == 0
    onnx = pytest.importorskip("onnx")
    inputs = onnx.load(written.path).graph.input
    names = [[d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim] for i in inputs]
    assert names == [["rows", 2], [2, "entries"]]

    class Fixed(Lookup):
        def forward(self, rows: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
            return super().forward(rows.view(3, 2), index)

    with pytest.raises(SpaceError, match=r"cannot export|fixes the number of rows"):
        export_onnx(Fixed(), tmp_path / "fixed.onnx", (rows, index), dynamic=dynamic)


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SpaceError, match=f"pip install {package}"):
        export_onnx(nn.Linear(3, 3), tmp_path / "net.onnx", torch.ones(1, 3))


@pytest.mark.slow
def test_what_cannot_be_traced_is_a_space_error(tmp_path: Path) -> None:
    class Looks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if bool((x > 0).all()) else -x

    with pytest.raises(SpaceError, match="cannot export Looks to ONNX"):
        export_onnx(Looks(), tmp_path / "net.onnx", torch.ones(2, 3))
    assert not list(tmp_path.iterdir())


def test_a_difference_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exported: Exported) -> None:
    """With another network's file in the exporter's place, nothing is written."""

    monkeypatch.setattr(onnx_export, "_export", lambda *_: onnx.load(exported.result.path))
    other = copy.deepcopy(exported.model)
    with torch.no_grad():
        other.head.bias += 1e-2
    with pytest.raises(SpaceError, match="differs from PyTorch"):
        export_onnx(other, tmp_path / "net.onnx", torch.randn(1, 1, 8, 8))
    other.head.bias.data.fill_(torch.nan)
    with pytest.raises(SpaceError, match="differs from PyTorch by nan"):
        export_onnx(other, tmp_path / "net.onnx", torch.randn(1, 1, 8, 8))
    with pytest.raises(SpaceError, match=r"opset=7 was asked for"):
        export_onnx(exported.model, tmp_path / "net.onnx", torch.randn(1, 1, 8, 8), opset=7)
    assert not list(tmp_path.iterdir())


def test_reading_what_is_no_export(tmp_path: Path, exported: Exported) -> None:
    file = tmp_path / "x.onnx"
    with pytest.raises(SpaceError, match="no such file"):
        read_onnx_architecture(file)
    file.write_bytes(b"\xff" * 100)
    with pytest.raises(SpaceError, match="not an ONNX file"):
        read_onnx_architecture(file)
    proto = onnx.load(exported.result.path)
    for value, message in (("[1]", "expected a dict"), ("{", "not JSON"), ("[" * 99999, "not JSON")):
        proto.metadata_props[0].value = value
        file.write_bytes(proto.SerializeToString())
        with pytest.raises(SpaceError, match=message):
            read_onnx_architecture(file)
    del proto.metadata_props[:]
    file.write_bytes(proto.SerializeToString())
    with pytest.raises(SpaceError, match="holds no architecture"):
        read_onnx_architecture(file)
