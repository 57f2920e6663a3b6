"""Find, read and load the trained weights of a published architecture.

A file is read once; the bytes whose checksum was compared are the bytes that are parsed. No file can run
code: safetensors holds only tensors, and `.pth` files are read with `torch.load(weights_only=True)`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from spacelang.errors import SpaceError, quoted, short
from spacelang.files import cache_folder
from spacelang.results import load_bundle

from .download import cached_path, checked, download
from .entries import Entry

Pretrained: TypeAlias = bool | str | os.PathLike[str]

_HUGGING_FACE = "hf://"
_DEFAULT_FILE = "model.safetensors"
_TORCH_FILES = (".pth", ".pt", ".tar", ".ckpt", ".bin")
_CONTAINERS = ("state_dict", "model_state_dict", "model", "net")  # of training scripts, in order


def check_pretrained(entry: Entry, pretrained: object) -> None:
    """Raise a `SpaceError` unless `pretrained` names weights that can be looked for."""
    if not isinstance(pretrained, bool | str | os.PathLike) or pretrained == "":
        raise SpaceError(
            "pretrained must be True, False, a path, or 'hf://owner/repository/file'; got "
            f"{short(pretrained)}."
        )
    if pretrained is True and entry.weights is None:
        raise SpaceError(
            f"no weights are published for {entry.name!r}. Type pretrained=False and train the network, or "
            "pretrained='path/to/weights.safetensors' if you have weights."
        )


def find_weights(entry: Entry, pretrained: Pretrained) -> tuple[Mapping[str, Tensor], str]:
    """Return the weights as they are in the file, and their origin for messages.

    Args:
        entry: Its `weights` name a `sha256`, and a `url` or a `file` in the package.
        pretrained: True for the entry's file, or the place of another one; see `spacelang.hub.load`.

    Raises:
        SpaceError: the file is missing, damaged, of an unknown kind, holds more than tensors, or belongs to
            another architecture.
    """
    if isinstance(pretrained, bool):
        record = entry.weights
        assert record is not None  # `check_pretrained` was called
        return _published(record), f"{entry.name!r} ({record.get('url') or record['file']})"
    path = _locate(os.fspath(pretrained), entry.name)
    if path.is_dir():
        bundle = load_bundle(path)
        if bundle.arch != entry.architecture:
            raise SpaceError(
                f"the bundle '{path}' holds another architecture than {entry.name!r}. "
                f"Type: load_bundle({str(path)!r}, space={entry.space})"
            )
        return bundle.weights, f"'{path}'"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SpaceError(f"cannot read the weights in '{path}': {error.strerror or error}.") from error
    return parse(data, path.name), f"'{path}'"


def _locate(place: str, name: str) -> Path:
    """Return the file, or the folder of a bundle, that `place` stands for when loading entry `name`."""
    if place.startswith(_HUGGING_FACE):
        return _from_hugging_face(place)
    if place.startswith(("http://", "https://")):
        raise SpaceError(
            f"pretrained={place!r}: an address without a checksum is not read. Download the file, compare "
            "its SHA-256, and type pretrained='path/to/file'."
        )
    path = Path(place).expanduser()
    if not path.is_dir() or (path / "architecture.yaml").is_file():
        return path
    return _in_folder(path, name)


def _published(record: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """Read the file of an entry, from the package, the cache or the network."""
    if "url" in record:
        url, sha256 = record["url"], record["sha256"]
        return parse(download(url, sha256), cached_path(url, sha256).name)
    file = record["file"]
    data = (files("spacelang.hub") / "weights" / file).read_bytes()
    return parse(checked(data, record["sha256"], f"{file!r}", "Install spacelang again"), file)


def _in_folder(folder: Path, name: str) -> Path:
    """Return the file for entry `name` in a folder of weights."""
    candidates = (f"{name}.safetensors", f"{name}.pth", _DEFAULT_FILE)
    for candidate in candidates:
        if (folder / candidate).is_file():
            return folder / candidate
    raise SpaceError(f"the folder '{folder}' has none of {quoted(candidates)}.")


def _from_hugging_face(place: str) -> Path:
    """Download (once) `hf://owner/repository[@revision][/file]`; the file defaults to `model.safetensors`."""
    owner, repository, file = (place.removeprefix(_HUGGING_FACE) + "//").split("/", 2)
    repository, _, revision = repository.partition("@")
    if not owner or not repository:
        raise SpaceError(f"expected 'hf://owner/repository/file', got {place!r}.")
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise SpaceError(
            f"{place!r} needs the package huggingface_hub. Type: pip install 'spacelang-nas[huggingface]'"
        ) from error
    try:
        return Path(
            hf_hub_download(
                f"{owner}/{repository}",
                file.strip("/") or _DEFAULT_FILE,
                revision=revision or None,
                cache_dir=cache_folder() / "huggingface",
            )
        )
    except (OSError, ValueError) as error:  # its own errors are of these kinds
        raise SpaceError(f"cannot get {place!r}: {' '.join(str(error).split())}") from error


def parse(data: bytes, file: str) -> Mapping[str, Tensor]:
    """Read a state dict; the ending of `file` tells its format."""
    ending = Path(file).suffix.lower()
    if ending == ".safetensors":
        from safetensors.torch import load

        try:
            return load(data)
        except Exception as error:  # SafetensorError, and torch's errors for odd shapes
            raise SpaceError(f"{file!r} is not a safetensors file: {error}") from error
    if ending not in _TORCH_FILES:
        raise SpaceError(
            f"{file!r}: weights are read from {quoted(('.safetensors', *_TORCH_FILES))}. "
            "Type: safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
        )
    try:
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # pickle's errors and those of damaged archives
        reason = str(error).strip().partition("\n")[0]
        raise SpaceError(
            f"{file!r} was refused, and nothing in it was run: it is damaged or holds more than tensors "
            f"({reason}). Of a pickled network, save its state_dict() with the code that trained it."
        ) from error
    inner = _state_dict(loaded)
    if not isinstance(inner, Mapping) or not all(isinstance(name, str) for name in inner):
        raise SpaceError(f"{file!r} holds a {type(loaded).__name__}; expected a state dict.")
    return inner


def _state_dict(loaded: object) -> object:
    """Return the state dict inside a checkpoint; averaged weights beside it are left alone."""
    if isinstance(loaded, Mapping):
        for key in _CONTAINERS:
            if isinstance(loaded.get(key), Mapping):
                return loaded[key]
    return loaded


def fill(model: nn.Module, weights: Mapping[str, Tensor], origin: str) -> None:
    """Load every tensor of a network.

    Raises:
        SpaceError: names every tensor that is missing, unknown or of another shape.
    """
    own = model.state_dict()
    problems = []
    if missing := [name for name in own if name not in weights]:
        problems.append(f"{len(missing)} missing: {quoted(missing, 6)}")
    if unknown := [name for name in weights if name not in own]:
        problems.append(f"{len(unknown)} unknown: {quoted(unknown, 6)}")
    differing = [
        f"{name!r} is {_shape(weights[name])}, in the network {_shape(own[name])}"
        for name in own
        if name in weights and _shape(weights[name]) != _shape(own[name])
    ]
    problems += differing[:6]
    if len(differing) > 6:
        problems.append(f"and {len(differing) - 6} more shapes")
    if problems:
        raise SpaceError(
            f"the weights of {origin} do not fit {type(model).__name__}: {'; '.join(problems)}. Build "
            "the network with the architecture and the arguments it was trained with."
        )
    model.load_state_dict(dict(weights), strict=True)


def _shape(value: object) -> object:
    """Return a dense tensor's shape, or the name of any other object."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    return tuple(value.shape) if value.layout == torch.strided else f"a {value.layout} tensor"
