"""Bundles: exact, checked, atomic, and pure data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from spacelang import SpaceError, load_bundle, model_context, save_bundle
from spacelang.files import dump_yaml, load_yaml
from spacelang.hub import DARTS
from spacelang.supernet import Supernet


def mlp(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 2))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return save_bundle(mlp(), {"depth": 2, "lr": 1e-3}, tmp_path / "b", metadata={"accuracy": 0.97})


def test_round_trip_into_a_model(tmp_path: Path) -> None:
    model, other = mlp(), mlp()
    path = save_bundle(model, {"depth": 2, "name": "on"}, tmp_path / "b", metadata={"accuracy": 0.97})
    assert sorted(file.name for file in path.iterdir()) == ["architecture.yaml", "model.safetensors"]
    loaded = load_bundle(path, other)
    assert loaded.arch == {"depth": 2, "name": "on"}
    assert loaded.metadata == {"accuracy": 0.97}
    assert loaded.model is other
    assert loaded.record["weights"]["tensors"] == len(model.state_dict())
    assert loaded.record["versions"]["torch"]
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.weights[name], tensor)
        assert torch.equal(other.state_dict()[name], tensor)


def test_round_trip_of_a_space(tmp_path: Path, space_class: Any, conv_arch: dict[str, Any]) -> None:
    with model_context(conv_arch):
        model = space_class(width=6, shape=(2, 5)).double()
    path = save_bundle(model, conv_arch, tmp_path / "b")
    loaded = load_bundle(path, space=space_class)
    assert loaded.arch == conv_arch
    assert loaded.record["space"]["class"].endswith("ConvSpace")
    assert loaded.record["space"]["arguments"] == {"width": 6, "shape": [2, 5]}
    assert isinstance(loaded.model, space_class)
    assert loaded.model.shape == (2, 5)  # a tuple again
    x = torch.randn(2, 2, 8, 8, dtype=torch.float64)
    assert torch.equal(loaded.model.eval()(x), model.eval()(x))
    factory = load_bundle(path, space=lambda: space_class(width=6, shape=(2, 5)))
    assert factory.model is not None


def test_frozen_by_the_space_inherits_and_reloads(
    tmp_path: Path, space_class: Any, conv_arch: dict[str, Any]
) -> None:
    model = space_class().freeze(conv_arch).eval()
    loaded = load_bundle(save_bundle(model, conv_arch, tmp_path / "b"), space=space_class).model
    assert loaded is not None
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(loaded.eval()(x), model(x))


def test_unfrozen_space_is_refused(tmp_path: Path, space_class: Any, bundle: Path) -> None:
    with pytest.raises(SpaceError, match=r"space\.freeze\(arch\).*model_context"):
        save_bundle(space_class(), {}, tmp_path / "c")
    assert not (tmp_path / "c").exists()
    with pytest.raises(SpaceError, match="load weights into"):
        load_bundle(bundle, space_class())


def test_arguments_that_are_not_data(tmp_path: Path, space_class: Any, conv_arch: dict[str, Any]) -> None:
    with model_context(conv_arch):
        model = space_class(extra=object())
    path = save_bundle(model, conv_arch, tmp_path / "b")
    with pytest.raises(SpaceError, match=r"'extra'.*space=lambda"):
        load_bundle(path, space=space_class)
    assert load_bundle(path, space=lambda: space_class(extra=object())).model is not None


def test_shared_and_strided_tensors(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
            self.b.weight = self.a.weight
            self.register_buffer("view", torch.arange(12.0).reshape(3, 4).t())
            self.conv = nn.Conv2d(2, 4, 3).to(memory_format=torch.channels_last)

    model, other = Tied(), Tied()
    loaded = load_bundle(save_bundle(model, {}, tmp_path / "b"), other)
    assert other.a.weight is other.b.weight
    assert torch.equal(other.a.weight, model.a.weight)
    assert torch.equal(loaded.weights["view"], model.view)
    assert torch.equal(other.conv.weight, model.conv.weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_precision_is_kept(tmp_path: Path, dtype: torch.dtype) -> None:
    model = mlp().to(dtype)
    loaded = load_bundle(save_bundle(model, {}, tmp_path / "b"), space=mlp_factory).model
    assert loaded is not None
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
        assert loaded.state_dict()[name].dtype == tensor.dtype


def mlp_factory() -> nn.Module:
    return mlp()


def test_every_flipped_bit_is_found(bundle: Path) -> None:
    file = bundle / "model.safetensors"
    whole = file.read_bytes()
    for at in range(0, len(whole), 7):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(SpaceError, match="is damaged"):
            load_bundle(bundle)
    file.write_bytes(whole[:-1])
    with pytest.raises(SpaceError, match="is damaged"):
        load_bundle(bundle)
    file.write_bytes(whole)
    load_bundle(bundle)


@pytest.mark.parametrize("header", [b"{}", b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"["])
@pytest.mark.parametrize("length", [None, 2**60, 2**40 - 8])
def test_no_more_is_read_than_the_header_accounts_for(
    bundle: Path, header: bytes, length: int | None
) -> None:
    file = bundle / "model.safetensors"
    file.write_bytes((len(header) if length is None else length).to_bytes(8, "little") + header)
    os.truncate(file, 2**40)  # a terabyte that takes no room on the disk
    with pytest.raises(SpaceError, match=r"model.safetensors' is damaged: it has 1099511627776 bytes"):
        load_bundle(bundle)


def test_a_pipe_is_not_read(bundle: Path) -> None:
    (bundle / "model.safetensors").unlink()
    os.mkfifo(bundle / "model.safetensors")
    with pytest.raises(SpaceError, match="is not a plain file"):
        load_bundle(bundle)


def test_missing_parts(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="no bundle"):
        load_bundle(tmp_path / "nothing")
    (bundle / "model.safetensors").unlink()
    with pytest.raises(SpaceError, match="no such file"):
        load_bundle(bundle)


def test_what_does_not_fit_is_named(bundle: Path) -> None:
    with pytest.raises(SpaceError, match=r"'0.weight' is \(4, 3\) in the bundle and \(5, 3\) in the model"):
        load_bundle(bundle, mlp(5))
    with pytest.raises(SpaceError, match=r"the bundle lacks '3.weight', '3.bias'"):
        load_bundle(bundle, nn.Sequential(*mlp(), nn.Linear(2, 2)))
    with pytest.raises(SpaceError, match=r"the model lacks '2.bias', '2.weight'"):
        load_bundle(bundle, mlp()[:2])  # type: ignore[index]


def test_a_failed_load_leaves_the_model_alone(bundle: Path) -> None:
    model = nn.Sequential(*mlp(), nn.Linear(2, 2))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(SpaceError):
        load_bundle(bundle, model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (("format",), "other/9"), (("architecture",), [1]), (("weights",), None), (("weights", "sha256"), 12),
        (("weights", "tensors"), 99), (("space",), "os.system"), (("space", "arguments"), {1: 2}),
        (("metadata",), "x"), (("space", "tuples"), "x"),
    ],
)  # fmt: skip
def test_a_tampered_description_is_a_space_error(bundle: Path, key: tuple[str, ...], value: object) -> None:
    file = bundle / "architecture.yaml"
    record = load_yaml(file)
    inner = record
    for part in key[:-1]:
        inner = inner[part]
    inner[key[-1]] = value
    file.write_text(dump_yaml(record))
    with pytest.raises(SpaceError):
        load_bundle(bundle)


def test_names_in_the_file_are_never_followed(bundle: Path, tmp_path: Path) -> None:
    file = bundle / "architecture.yaml"
    record = load_yaml(file)
    record["space"]["class"] = "antigravity.Net"
    record["weights"]["file"] = "../../elsewhere"
    file.write_text(dump_yaml(record))
    import sys

    assert load_bundle(bundle).arch == {"depth": 2, "lr": 1e-3}
    assert "antigravity" not in sys.modules


def test_a_class_that_takes_other_arguments(bundle: Path) -> None:
    record = load_yaml(bundle / "architecture.yaml")
    record["space"]["arguments"] = {"depth": 3}
    (bundle / "architecture.yaml").write_text(dump_yaml(record))
    with pytest.raises(SpaceError, match="cannot build Identity3"):
        load_bundle(bundle, space=Identity3)


class Identity3(nn.Module):
    def __init__(self) -> None:
        super().__init__()


@pytest.mark.parametrize("failing", ["model.safetensors", "architecture.yaml"])
def test_a_write_that_fails_leaves_no_half_file(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    before = {file.name: file.read_bytes() for file in bundle.iterdir()}
    replace = os.replace

    def broken(source: Any, target: Any) -> None:
        if Path(target).name == failing:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(SpaceError, match="No space left"):
        save_bundle(mlp(8), {}, bundle)
    assert {file.name for file in bundle.iterdir()} == set(before)  # no temporary file stays
    assert (bundle / failing).read_bytes() == before[failing]
    if failing == "architecture.yaml":  # new weights beside the old description: refused, not misread
        with pytest.raises(SpaceError, match="SHA-256"):
            load_bundle(bundle)


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    class Extra(nn.Module):
        def get_extra_state(self) -> object:
            return {"not": "a tensor"}

    with pytest.raises(SpaceError, match="_extra_state"):
        save_bundle(Extra(), {}, tmp_path / "a")
    with pytest.raises(SpaceError, match="no data yet"):
        save_bundle(nn.LazyLinear(3), {}, tmp_path / "b")
    with pytest.raises(SpaceError, match=r"arch\['op'\]"):
        save_bundle(mlp(), {"op": nn.ReLU()}, tmp_path / "c")
    with pytest.raises(SpaceError, match="no such file or folder"):
        save_bundle(mlp(), {}, tmp_path / "x" / "y")
    with pytest.raises(SpaceError, match="expected a torch"):
        save_bundle("model", {}, tmp_path / "d")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    model = mlp()
    one, two = (save_bundle(model, {"a": 1}, tmp_path / name) for name in "ab")
    for file in one.iterdir():
        assert file.read_bytes() == (two / file.name).read_bytes()


# -- networks with inherited weights -----------------------------------------------------------------------


def test_a_network_frozen_from_a_search_loads_into_what_a_factory_builds(tmp_path: Path) -> None:
    """In a search batch norms have no weights, and follow pools too; the arguments tell the class so."""

    def build() -> nn.Module:
        return DARTS(4, 3, (1, 8, 10), num_nodes=2)

    space = build()
    supernet = Supernet(space)
    arch = space.default()
    model = supernet.freeze(arch).eval()
    path = save_bundle(model, arch, tmp_path / "b")
    x = torch.randn(2, 1, 8, 8)
    with pytest.warns(UserWarning, match="inherited its weights from a search"):
        from_factory = load_bundle(path, space=build).model
    for loaded in (from_factory, load_bundle(path, space=DARTS).model):
        assert loaded is not None
        assert torch.allclose(loaded.eval()(x), model(x), atol=1e-6)  # the supernet's layout is channels_last
        state = loaded.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    with model_context(arch):
        affine = build()
    with pytest.raises(SpaceError, match="or pass space="):
        load_bundle(path, affine)
