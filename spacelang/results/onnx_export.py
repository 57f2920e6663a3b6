"""ONNX export that is checked before it is written, carries its architecture, and leaks no local paths."""

from __future__ import annotations

import copy
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..arguments import known_arguments
from ..errors import SpaceError
from ..files.plain import plain
from ..files.storage import file_errors, target_path, write_atomic
from ..graph.tensors import batched_arguments, tensors_in
from ..language import require_frozen
from ..quiet import quiet

if TYPE_CHECKING:
    from onnx import ModelProto

ARCHITECTURE_KEY = "spacelang.architecture"
_NOISY = ("torch.onnx", "torch.export", "torch.fx", "onnxscript", "onnx_ir")


@dataclass(frozen=True, slots=True)
class OnnxExport:
    """Result of `export_onnx`.

    Attributes:
        path: the file.
        opset: version of the standard operator set found in the file.
        max_difference: largest |PyTorch - onnxruntime| / max(1, largest |PyTorch|) over outputs and batches.
        size_bytes: size of the file.
    """

    path: Path
    opset: int
    max_difference: float
    size_bytes: int


@known_arguments
def export_onnx(
    model: nn.Module,
    path: str | os.PathLike[str],
    example_inputs: Tensor | tuple[Tensor, ...],
    *,
    arch: Mapping[str, Any] | None = None,
    batch_sizes: Sequence[int] = (1, 3),
    tolerance: float = 1e-4,
    opset: int | None = None,
) -> OnnxExport:
    """Export the evaluation mode of a frozen network with a dynamic dimension named 'batch'.

    The file is checked by onnx, run by onnxruntime beside PyTorch at each of `batch_sizes`, and only then put
    in place. A copy on the CPU is exported: `model` keeps its mode and device.

    Args:
        model: a frozen network; every tensor it takes and returns has the batch first.
        path: file ending in .onnx.
        example_inputs: a tensor or a tuple of positional tensors, (B, ...).
        arch: architecture dict to keep in the file; `read_onnx_architecture` gives it back.
        batch_sizes: batches compared with PyTorch.
        tolerance: largest difference allowed, see `OnnxExport.max_difference`.
        opset: operator set to ask for; None leaves it to the exporter.

    Raises:
        SpaceError: an unfrozen space, a missing package, a network the exporter cannot trace, another opset
            than asked for, or an output that differs from PyTorch's.

    Source: torch.onnx.export(dynamo=True).
    """
    require_frozen(model, "export")
    target = target_path(path, (".onnx",))
    for package in ("onnx", "onnxscript", "onnxruntime"):
        _require(package)
    if not batch_sizes or min(batch_sizes) < 1:
        raise SpaceError(f"batch_sizes={tuple(batch_sizes)} must be one or more sizes of at least 1.")
    properties = {} if arch is None else {ARCHITECTURE_KEY: _to_json(arch)}
    inputs = tuple(tensor.detach().cpu() for tensor in batched_arguments(example_inputs))
    replica = copy.deepcopy(model).cpu().eval()

    proto = _export(replica, inputs, opset)
    found = _read_opset(proto, opset)
    _strip(proto)
    for key, value in properties.items():
        proto.metadata_props.add(key=key, value=value)
    data = _checked(proto)
    difference = _compare(replica, data, inputs, batch_sizes)
    if not difference <= tolerance:  # also true for NaN
        raise SpaceError(
            f"the exported {type(model).__name__} differs from PyTorch by {difference:.3g}, allowed "
            f"{tolerance:.3g}; nothing was written. A network in lower precision may need a larger tolerance."
        )
    write_atomic(target, data)
    return OnnxExport(path=target, opset=found, max_difference=difference, size_bytes=len(data))


def read_onnx_architecture(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the architecture dict that `export_onnx` left in a file.

    Raises:
        SpaceError: not an ONNX file, or one without an architecture.
    """
    onnx = _require("onnx")
    with file_errors(f"cannot read '{os.fspath(path)}'"):
        data = Path(path).read_bytes()
    try:
        properties = {entry.key: entry.value for entry in onnx.load_from_string(data).metadata_props}
    except Exception as error:  # protobuf's own error classes differ between its implementations
        raise SpaceError(f"'{os.fspath(path)}' is not an ONNX file: {error}") from error
    if ARCHITECTURE_KEY not in properties:
        raise SpaceError(
            f"'{os.fspath(path)}' holds no architecture; export with export_onnx(..., arch=arch)."
        )
    try:
        arch = json.loads(properties[ARCHITECTURE_KEY])
    except (ValueError, RecursionError) as error:
        raise SpaceError(f"the architecture in '{os.fspath(path)}' is not JSON: {error}") from error
    if not isinstance(arch, dict):
        raise SpaceError(
            f"the architecture in '{os.fspath(path)}' is a {type(arch).__name__}; expected a dict"
        )
    return arch


def _require(package: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        raise SpaceError(f"ONNX export needs {package}; install it: pip install {package}") from error


def _to_json(arch: Mapping[str, Any]) -> str:
    if not isinstance(arch, Mapping) or not all(isinstance(label, str) for label in arch):
        raise SpaceError(f"arch is a {type(arch).__name__}; expected an architecture dict {{label: value}}.")
    return json.dumps(plain(dict(arch), "arch"), ensure_ascii=False)


def _export(replica: nn.Module, inputs: tuple[Tensor, ...], opset: int | None) -> ModelProto:
    outputs = tensors_in(_run(replica, inputs))
    names = ["output"] if len(outputs) == 1 else [f"output_{index}" for index in range(len(outputs))]
    batch = torch.export.Dim("batch")
    traced = tuple(
        _rows(tensor, max(2, len(tensor)), None) for tensor in inputs
    )  # a batch of 1 would be fixed
    try:
        with quiet(_NOISY, logging.CRITICAL), torch.no_grad():
            program = torch.onnx.export(
                replica,
                traced,
                dynamo=True,
                dynamic_shapes=tuple({0: batch} for _ in inputs),
                output_names=names,
                opset_version=opset,
                verbose=False,
            )
    except Exception as error:  # the exporter raises many classes, each with the reason in its text
        raise SpaceError(f"cannot export {type(replica).__name__} to ONNX: {error}") from error
    if program is None:
        raise SpaceError(f"cannot export {type(replica).__name__} to ONNX: the exporter returned nothing.")
    proto: ModelProto = program.model_proto
    fixed = [value.name for value in proto.graph.input if not value.type.tensor_type.shape.dim[0].dim_param]
    if fixed:
        raise SpaceError(
            f"{type(replica).__name__} fixes the batch size of input {fixed[0]!r}; use x.shape[0]."
        )
    return proto


def _run(model: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    try:
        with torch.no_grad():
            return model(*inputs)
    except Exception as error:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
        raise SpaceError(
            f"the forward pass of {type(model).__name__} fails for an input of shape {shapes}: {error}"
        ) from error


def _read_opset(proto: ModelProto, asked: int | None) -> int:
    found = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    if asked is not None and found != asked:
        raise SpaceError(
            f"opset={asked} was asked for, the exporter wrote {found}; use opset={found} or None."
        )
    return int(found)


def _strip(message: Any) -> None:
    """Clear doc strings and metadata (stack traces with local paths) in a message and all below it."""
    for descriptor, value in message.ListFields():
        if descriptor.name in ("doc_string", "metadata_props"):
            message.ClearField(descriptor.name)
        elif hasattr(value, "ListFields"):
            _strip(value)
        elif descriptor.message_type is not None:
            for child in value:
                _strip(child)


def _checked(proto: ModelProto) -> bytes:
    import onnx  # late: an extra that only this function needs

    try:
        data: bytes = proto.SerializeToString()
        onnx.checker.check_model(data, full_check=True)
    except Exception as error:  # protobuf refuses files over 2 GB, the checker what onnx forbids
        raise SpaceError(f"the exported graph is not a valid ONNX file: {error}") from error
    return data


def _compare(model: nn.Module, data: bytes, inputs: tuple[Tensor, ...], batch_sizes: Sequence[int]) -> float:
    """Return the largest relative difference between PyTorch and onnxruntime; NaN if any is."""
    import onnxruntime  # late: an extra that only this function needs

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise SpaceError(f"onnxruntime cannot load the exported {type(model).__name__}: {error}") from error
    gaps = [gap for size in batch_sizes for gap in _differences(model, session, inputs, size)]
    return math.nan if any(map(math.isnan, gaps)) else max(gaps, default=0.0)


def _differences(
    model: nn.Module, session: Any, inputs: tuple[Tensor, ...], batch_size: int
) -> Iterator[float]:
    """Yield the relative difference of each output for one made-up batch."""
    batch = tuple(_rows(tensor, batch_size, seed) for seed, tensor in enumerate(inputs))
    expected = tensors_in(_run(model, batch))
    feed = {entry.name: tensor.numpy() for entry, tensor in zip(session.get_inputs(), batch, strict=True)}
    try:
        found = [torch.from_numpy(array) for array in session.run(None, feed)]
    except Exception as error:
        raise SpaceError(f"onnxruntime fails on a batch of {batch_size}: {error}") from error
    for ours, theirs in zip(expected, found, strict=True):
        if ours.shape != theirs.shape:
            shapes = f"{tuple(theirs.shape)} in onnxruntime and {tuple(ours.shape)} in PyTorch"
            raise SpaceError(f"a batch of {batch_size} gives {shapes}.")
        if ours.numel():
            scale = max(1.0, float(ours.abs().max()))
            yield float((ours.double() - theirs.double()).abs().max()) / scale


def _rows(tensor: Tensor, count: int, seed: int | None) -> Tensor:
    """Return `count` examples like those of `tensor`, (count, ...): its own in turn, with noise if seeded."""
    rows = tensor[torch.arange(count) % len(tensor)].contiguous()
    if seed is None or not rows.is_floating_point():
        return rows
    generator = torch.Generator().manual_seed(seed)
    return rows + torch.randn(rows.shape, generator=generator).to(rows.dtype)
