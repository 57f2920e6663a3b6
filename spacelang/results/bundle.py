"""A trained network as a folder: weights in safetensors, everything else in YAML, a checksum between them."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import stat
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..arguments import known_arguments
from ..errors import SpaceError, quoted
from ..files.plain import plain
from ..files.storage import file_errors, write_atomic
from ..files.yaml_files import dump_yaml, load_yaml
from ..language import Space, is_frozen, model_context, require_frozen
from ..version import __version__

WEIGHTS = "model.safetensors"
DESCRIPTION = "architecture.yaml"
_FORMAT = "spacelang.bundle/1"
_MOST_HEADER = 100_000_000  # bytes, the limit of safetensors itself


@dataclass(frozen=True)
class Bundle:
    """Contents of a bundle folder.

    Attributes:
        arch: architecture dict.
        weights: `{state-dict key: tensor}`, on the CPU.
        metadata: The metadata passed to `save_bundle`.
        record: the whole description file: class name, constructor arguments, versions, checksum.
        model: the network with these weights, if `load_bundle` was given a model or a space.
    """

    arch: dict[str, Any]
    weights: dict[str, Tensor] = field(repr=False)
    metadata: dict[str, Any]
    record: dict[str, Any] = field(repr=False)
    model: nn.Module | None = field(default=None, repr=False)


@known_arguments
def save_bundle(
    model: nn.Module,
    arch: Mapping[str, Any],
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write `model.safetensors` and `architecture.yaml` into the folder `path`, and return the folder.

    Each file is written under a temporary name and renamed, the description last: a process killed in between
    leaves a folder that `load_bundle` refuses by its checksum, never one that it misreads. Constructor
    arguments that are not JSON data are left out and listed.

    Args:
        model: a frozen network; it may share tensors between modules.
        arch: its architecture dict.
        path: folder, made if missing (its parent must exist).
        metadata: anything JSON-safe to keep with it, for example `{"test_accuracy": 0.97}`.

    Raises:
        SpaceError: an unfrozen space, an architecture or metadata that JSON cannot hold, weights that are not
            plain tensors, or a folder that cannot be written.
    """
    require_frozen(model, "save")
    weights = _serialise(model)
    record = {
        "format": _FORMAT,
        "architecture": _mapping(arch, "arch"),
        "space": _describe_space(model),
        "weights": {
            "file": WEIGHTS,
            "sha256": hashlib.sha256(weights).hexdigest(),
            "tensors": len(model.state_dict()),
        },
        "versions": _versions(),
        "metadata": _mapping(metadata or {}, "metadata"),
    }
    description = dump_yaml(record).encode()
    folder = Path(path)
    with file_errors(f"cannot make the folder '{folder}'"):
        folder.mkdir(exist_ok=True)
    write_atomic(folder / WEIGHTS, weights)
    write_atomic(folder / DESCRIPTION, description)
    return folder


@known_arguments
def load_bundle(
    path: str | os.PathLike[str],
    model: nn.Module | None = None,
    *,
    space: Callable[..., nn.Module] | None = None,
) -> Bundle:
    """Read a bundle, check its weights against their SHA-256, and fill a network if one is given.

    Nothing is imported or evaluated by a name found in the file: the class is the caller's.

    Args:
        path: the folder.
        model: a frozen network to load the weights into, strictly.
        space: instead of `model`, a ModelSpace class, called under `model_context(arch)` with the stored
            constructor arguments, or a factory without arguments; gives `.model` in the stored precision. A
            network that `freeze` took from a space or a supernet is built as a space and frozen, with a
            warning where that differs: searches often train batch norms without weights.

    Raises:
        SpaceError: a missing or damaged file, or weights that do not fit; names the tensors and shapes.
    """
    if model is not None and space is not None:
        raise SpaceError("load_bundle got both model and space; give one of them.")
    folder = Path(path)
    record = _read_description(folder)
    weights = _read_weights(folder, record)
    arch = record["architecture"]
    if space is not None:
        make = _maker(space, record["space"])
        with model_context(arch):
            model = make()
        require_frozen(model, "load weights into")
        if model.state_dict().keys() != weights.keys():
            model = _inheriting(make, arch, weights, folder) or model
        _match_precision(model, weights)
    if model is not None:
        require_frozen(model, "load weights into")
        _fill(model, weights, folder)
    return Bundle(arch=arch, weights=weights, metadata=record["metadata"], record=record, model=model)


def _mapping(data: object, where: str) -> dict[str, Any]:
    if not isinstance(data, Mapping) or not all(isinstance(key, str) for key in data):
        raise SpaceError(f"{where} is a {type(data).__name__}; expected a dict with str keys.")
    copied: dict[str, Any] = plain(dict(data), where)
    return copied


def _serialise(model: nn.Module) -> bytes:
    """Return the state dict as a safetensors file; tensors that share memory are written once each."""
    from safetensors.torch import save  # late: a file format that searching does not need

    tensors: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, value in model.state_dict().items():
        tensor = _as_plain_tensor(name, value)
        storage = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if storage in storages else tensor
        storages.add(storage)
    try:
        return save(tensors)
    except Exception as error:  # SafetensorError and ValueError: types the format does not know
        raise SpaceError(f"the weights of {type(model).__name__} cannot be written: {error}") from error


def _as_plain_tensor(name: str, value: object) -> Tensor:
    """Return one state-dict entry as a contiguous CPU tensor."""
    if not isinstance(value, torch.Tensor):
        raise SpaceError(
            f"state-dict entry {name!r} is a {type(value).__name__}; a bundle holds tensors only. "
            "Register it as a buffer, or give it as metadata."
        )
    if value.is_meta or is_lazy(value):
        raise SpaceError(f"state-dict entry {name!r} has no data yet; run the model once before saving it.")
    return value.detach().cpu().contiguous()


def _describe_space(model: nn.Module) -> dict[str, Any]:
    """Return class name and constructor arguments; what JSON cannot hold is named under `left_out`."""
    stored: dict[str, Any] = {}
    tuples: list[str] = []
    left_out: list[str] = []
    for name, value in dict(getattr(model, "arguments", None) or {}).items():
        try:
            stored[name] = plain(value, name)
        except SpaceError:
            left_out.append(name)
        else:
            if isinstance(value, tuple):
                tuples.append(name)
    kind = type(model)
    return {
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "arguments": stored,
        "tuples": tuples,
        "left_out": left_out,
    }


def _versions() -> dict[str, str]:
    packages = {name: version(name) for name in ("torch", "safetensors")}
    return {"python": platform.python_version(), "spacelang": __version__, **packages}


_SHAPE: dict[str, dict[str, type]] = {
    "": {"format": str, "architecture": dict, "space": dict, "weights": dict, "metadata": dict},
    "space": {"class": str, "arguments": dict, "tuples": list, "left_out": list},
    "weights": {"sha256": str, "tensors": int},
}


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    if not path.is_file():
        raise SpaceError(f"'{folder}' is no bundle: it has no {DESCRIPTION}.")
    record = load_yaml(path)
    for section, keys in _SHAPE.items():
        data = record if not section else record[section]
        for key, kind in keys.items():
            if not isinstance(data, dict) or not isinstance(data.get(key), kind):
                place = f"{section}.{key}" if section else key
                raise SpaceError(f"'{path}' is no bundle description: {place!r} is not a {kind.__name__}.")
    if record["format"] != _FORMAT:
        raise SpaceError(f"'{path}' has the format {record['format']!r}; this version reads {_FORMAT!r}.")
    if not all(isinstance(name, str) for name in (*record["architecture"], *record["space"]["arguments"])):
        raise SpaceError(f"'{path}': labels and argument names must be strings.")
    checked: dict[str, Any] = record
    return checked


def _read_weights(folder: Path, record: dict[str, Any]) -> dict[str, Tensor]:
    """Read the weights file once, and parse the very bytes whose checksum was right."""
    from safetensors.torch import load  # late, as above

    path = folder / WEIGHTS
    with file_errors(f"cannot read '{path}'"):
        data = _read_accounted(path)
    expected, found = record["weights"]["sha256"], hashlib.sha256(data).hexdigest()
    if found != expected:
        raise SpaceError(
            f"'{path}' is damaged or belongs to another {DESCRIPTION}: its SHA-256 is {found}, expected "
            f"{expected}."
        )
    try:
        weights = load(data)
    except Exception as error:  # the file matches its checksum and still is no safetensors file
        raise SpaceError(f"'{path}' is not a safetensors file: {error}") from error
    if len(weights) != record["weights"]["tensors"]:
        raise SpaceError(f"'{path}' has {len(weights)} tensors, expected {record['weights']['tensors']}.")
    return weights


def _read_accounted(path: Path) -> bytes:
    """Read a safetensors file, no larger than its header accounts for.

    Raises:
        SpaceError: Not a plain file, or its header accounts for another number of bytes.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise SpaceError(f"'{path}' is not a plain file.")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(length) if length <= _MOST_HEADER else b"")
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            accounted = 8 + length + max(ends, default=0)
        except (ValueError, TypeError, AttributeError, LookupError, RecursionError):
            accounted = None
        if accounted != found.st_size:
            raise SpaceError(
                f"'{path}' is damaged: it has {found.st_size} bytes, and its header accounts for "
                f"{'no number' if accounted is None else accounted} of them."
            )
        file.seek(0)
        return file.read(found.st_size)


def _maker(space: Callable[..., nn.Module], described: dict[str, Any]) -> Callable[[], nn.Module]:
    """Return what constructs the network: a class gets the stored arguments, a factory gets none."""
    name = getattr(space, "__qualname__", type(space).__name__)
    if isinstance(space, nn.Module) or not callable(space):
        raise SpaceError(
            f"space is a {type(space).__name__} object; give its class, or a factory without arguments."
        )
    arguments: dict[str, Any] = {}
    if isinstance(space, type):
        if described["left_out"]:
            raise SpaceError(
                f"the bundle does not hold the arguments {quoted(described['left_out'])} of {name} (they are "
                f"not JSON data); build it yourself: load_bundle(path, space=lambda: {name}(...))."
            )
        arguments = dict(described["arguments"])
        for key in described["tuples"]:
            arguments[key] = tuple(arguments.get(key) or ())

    def make() -> nn.Module:
        try:
            model = space(**arguments)
        except TypeError as error:
            raise SpaceError(
                f"cannot build {name} with the stored arguments {quoted(arguments)}: {error}. The bundle was "
                f"saved from {described['class']!r}."
            ) from error
        if not isinstance(model, nn.Module):
            raise SpaceError(f"space={name} built a {type(model).__name__}; expected a torch.nn.Module.")
        return model

    return make


def _inheriting(
    make: Callable[[], nn.Module], arch: Mapping[str, Any], weights: Mapping[str, Tensor], folder: Path
) -> nn.Module | None:
    """Return the network as `freeze` takes it from a space, if it is that which the bundle holds."""
    space = make()
    if not isinstance(space, Space) or is_frozen(space):
        return None
    known = space.decision_space.by_label
    model = space.freeze({label: value for label, value in arch.items() if label in known})
    if model.state_dict().keys() != weights.keys():
        return None
    warnings.warn(
        f"the network in '{folder}' inherited its weights from a search, which builds {type(space).__name__} "
        "with other layers than model_context does (such as batch norms without weights); it is loaded as it "
        "was searched. To retrain, build a new one under model_context(bundle.arch).",
        stacklevel=3,
    )
    return model


def _match_precision(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give every tensor of a fresh model the stored dtype, so that it is bit for bit the saved one."""
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name in weights and tensor.dtype != weights[name].dtype:
            tensor.data = tensor.data.to(weights[name].dtype)


def _fill(model: nn.Module, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Load strictly, after naming everything that does not fit."""
    own = model.state_dict()
    problems = []
    if missing := [name for name in own if name not in weights]:
        problems.append(f"the bundle lacks {quoted(missing, 6)}")
    if unknown := sorted(name for name in weights if name not in own):
        problems.append(f"the model lacks {quoted(unknown, 6)}")
    problems += [
        f"{name!r} is {tuple(weights[name].shape)} in the bundle and {tuple(own[name].shape)} in the model"
        for name in own
        if name in weights and own[name].shape != weights[name].shape
    ][:6]
    if problems:
        raise SpaceError(
            f"the weights in '{folder}' do not fit {type(model).__name__}: {'; '.join(problems)}. Build the "
            "model with the architecture and the constructor arguments of the bundle, or pass space=, which "
            "also builds a network as a search does."
        )
    model.load_state_dict(dict(weights), strict=True)
