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
from ..graph.tensors import tensor_arguments, tensors_in
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
    dynamic: Sequence[Mapping[int, str]] | None = None,
    compared: Sequence[tuple[Tensor, ...]] = (),
    tolerance: float = 1e-4,
    opset: int | None = None,
) -> OnnxExport:
    """Export the evaluation mode of a frozen network with a dynamic dimension named 'batch'.

    The file is checked by onnx, run by onnxruntime beside PyTorch at each of `batch_sizes`, and only then put
    in place. A copy on the CPU is exported: `model` keeps its mode and device.

    Inputs without a common batch, such as the nodes and edges of a graph, need `dynamic`, as in
    `dynamic=[{0: "nodes"}, {1: "edges"}]`. No batches can be made up for them, so they are compared with
    PyTorch as given, and so is everything in `compared`.

    Args:
        model: a frozen network; unless `dynamic` is given, every tensor it takes and returns has the batch
            first.
        path: file ending in .onnx.
        example_inputs: a tensor or a tuple of positional tensors, (B, ...); what `dynamic` names is
            at least 2.
        arch: architecture dict to keep in the file; `read_onnx_architecture` gives it back.
        batch_sizes: batches compared with PyTorch.
        dynamic: names of the dimensions that may change, for each input.
        compared: further inputs of other sizes, to be compared with PyTorch.
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
    inputs = _checked_inputs(example_inputs, dynamic, compared)
    replica = copy.deepcopy(model).cpu().eval()
    outputs = len(tensors_in(_run(replica, inputs)))
    if dynamic is None:
        # A batch of 1 would be fixed.
        traced = tuple(_rows(tensor, max(2, len(tensor)), None) for tensor in inputs)
        proto = _export(replica, traced, [{0: "batch"}] * len(inputs), outputs, opset)
        given = [tuple(_rows(x, size, seed) for seed, x in enumerate(inputs)) for size in batch_sizes]
    else:
        proto = _export(replica, inputs, dynamic, outputs, opset)
        given = [inputs, *(tuple(tensor.detach().cpu() for tensor in further) for further in compared)]
    found = _read_opset(proto, opset)
    _strip(proto)
    for key, value in properties.items():
        proto.metadata_props.add(key=key, value=value)
    data = _checked(proto)
    difference = _compare(replica, data, given)
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


def _checked_inputs(
    example_inputs: Tensor | tuple[Tensor, ...],
    dynamic: Sequence[Mapping[int, str]] | None,
    compared: Sequence[tuple[Tensor, ...]],
) -> tuple[Tensor, ...]:
    """Return the example inputs on the CPU; raise a `SpaceError` if they do not fit the other arguments."""
    inputs = tuple(tensor.detach().cpu() for tensor in tensor_arguments(example_inputs))
    if dynamic is None:
        if len({len(tensor) for tensor in inputs}) > 1:
            raise SpaceError(
                f"example_inputs has shapes {', '.join(str(tuple(x.shape)) for x in inputs)}, which have no "
                "common batch size. Name the dimensions that may change, for each input; for the nodes and "
                "edges of a graph: dynamic=[{0: 'nodes'}, {1: 'edges'}]."
            )
        if compared:
            raise SpaceError("compared= goes with dynamic=; batches of batch_sizes= are made up.")
        return inputs
    fits = len(dynamic) == len(inputs) and all(
        0 <= dim < tensor.dim() and tensor.shape[dim] > 1
        for tensor, names in zip(inputs, dynamic, strict=True)
        for dim in names
    )
    if not fits:
        raise SpaceError(
            f"dynamic={list(dynamic)!r} must have a dict for each of {len(inputs)} inputs, of dimensions "
            f"that are at least 2 in the example inputs: {', '.join(str(tuple(x.shape)) for x in inputs)}."
        )
    return inputs


def _export(
    replica: nn.Module,
    inputs: tuple[Tensor, ...],
    dynamic: Sequence[Mapping[int, str]],
    outputs: int,
    opset: int | None,
) -> ModelProto:
    names = ["output"] if outputs == 1 else [f"output_{index}" for index in range(outputs)]
    known = {name: torch.export.Dim(name) for of_input in dynamic for name in of_input.values()}
    shapes = tuple({dim: known[name] for dim, name in of_input.items()} for of_input in dynamic)
    try:
        with quiet(_NOISY, logging.CRITICAL), torch.no_grad():
            program = torch.onnx.export(
                replica,
                inputs,
                dynamo=True,
                dynamic_shapes=shapes,
                output_names=names,
                opset_version=opset,
                verbose=False,
            )
    except Exception as error:  # the exporter raises many classes, each with the reason in its text
        raise SpaceError(f"cannot export {type(replica).__name__} to ONNX: {error}") from error
    if program is None:
        raise SpaceError(f"cannot export {type(replica).__name__} to ONNX: the exporter returned nothing.")
    proto: ModelProto = program.model_proto
    for value, of_input in zip(proto.graph.input, dynamic, strict=True):
        for dim, name in of_input.items():
            if not value.type.tensor_type.shape.dim[dim].dim_param:
                what = "batch size" if name == "batch" else f"number of {name}"
                raise SpaceError(
                    f"{type(replica).__name__} fixes the {what} of input {value.name!r}; use x.shape[{dim}]."
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


def _compare(model: nn.Module, data: bytes, given: Sequence[tuple[Tensor, ...]]) -> float:
    """Return the largest relative difference between PyTorch and onnxruntime; NaN if any is."""
    import onnxruntime  # late: an extra that only this function needs

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise SpaceError(f"onnxruntime cannot load the exported {type(model).__name__}: {error}") from error
    gaps = [gap for inputs in given for gap in _differences(model, session, inputs)]
    return math.nan if any(map(math.isnan, gaps)) else max(gaps, default=0.0)


def _differences(model: nn.Module, session: Any, batch: tuple[Tensor, ...]) -> Iterator[float]:
    """Yield the relative difference of each output for one batch."""
    what = f"a batch of {len(batch[0])}"
    expected = tensors_in(_run(model, batch))
    feed = {entry.name: tensor.numpy() for entry, tensor in zip(session.get_inputs(), batch, strict=True)}
    try:
        found = [torch.from_numpy(array) for array in session.run(None, feed)]
    except Exception as error:
        raise SpaceError(f"onnxruntime fails on {what}: {error}") from error
    for ours, theirs in zip(expected, found, strict=True):
        if ours.shape != theirs.shape:
            shapes = f"{tuple(theirs.shape)} in onnxruntime and {tuple(ours.shape)} in PyTorch"
            raise SpaceError(f"{what} gives {shapes}.")
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
