"""Weights that ship with the package, and weights from the user's own places."""

from __future__ import annotations

import hashlib
import re
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from spacelang import SpaceError, hub, save_bundle
from spacelang.evaluators.data import DataSplits, digits, small_mnist
from spacelang.hub import DARTS, AutoFormer, list_models, load
from spacelang.hub.published import read_entry
from spacelang.hub.published.weights import parse

SHIPPED = hub.list_models(pretrained=True)
WEIGHTS = Path(__file__).parents[2] / "hub" / "weights"
SMALL: dict[str, Any] = {"width": 2, "num_cells": 3, "dataset": [1, 8, 10]}


# -- in the package ------------------------------------------------------------------------------------


@cache
def data_of(name: str) -> DataSplits:
    return small_mnist() if name.endswith("-mnist") else digits()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr("socket.socket.connect", refuse)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_give_the_reference_output(name: str, offline: None) -> None:
    reference = load_file(WEIGHTS / f"{name}.reference.safetensors")
    model = load(name, pretrained=True).eval()
    torch.testing.assert_close(model(reference["images"]), reference["logits"], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_are_as_good_as_stated(name: str) -> None:
    images, labels = data_of(name).test.tensors  # type: ignore[attr-defined]
    assert torch.equal(load_file(WEIGHTS / f"{name}.reference.safetensors")["images"], images[:8])
    with torch.no_grad():
        predicted = load(name, pretrained=True).eval()(images).argmax(1)
    (result,) = read_entry(name).published
    accuracy = 100 * (predicted == labels).double().mean().item()
    assert accuracy == pytest.approx(result["test_accuracy_percent"], abs=0.3)  # one image of 359, 3 of 1,000


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_files_are_small_and_as_recorded(name: str) -> None:
    record = read_entry(name).weights
    assert record is not None
    data = (WEIGHTS / record["file"]).read_bytes()
    assert len(data) < 1_000_000
    assert hashlib.sha256(data).hexdigest() == record["sha256"]
    assert record["license"]
    assert record["input"]
    assert record["command"] == f"python benchmarks/train_hub_weights.py {name}"


def test_every_shipped_file_belongs_to_an_entry() -> None:
    known = {f"{name}{ending}" for name in SHIPPED for ending in (".safetensors", ".reference.safetensors")}
    assert {path.name for path in WEIGHTS.iterdir()} == known


def test_spaces_load_them_too() -> None:
    for space, name in ((DARTS, "darts-digits"), (AutoFormer, "autoformer-digits")):
        model = space.load_searched_model(name, pretrained=True)
        assert type(model) is space
        assert torch.equal(
            torch.cat([p.flatten() for p in model.parameters()]),
            torch.cat([p.flatten() for p in load(name, pretrained=True).parameters()]),
        )


def test_a_damaged_package_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path)[:-1] + b"!")
    with pytest.raises(SpaceError, match=r"'darts-digits\.safetensors' is damaged: its SHA-256 is"):
        load("darts-digits", pretrained=True)


def test_records_are_complete() -> None:
    records = [record for name in hub.list_models() if (record := read_entry(name).weights) is not None]
    assert len(records) >= len(SHIPPED)
    for record in records:
        assert len({"file", "url"} & record.keys()) == 1
        assert re.fullmatch("[0-9a-f]{64}", record["sha256"])


# -- from the user -------------------------------------------------------------------------------------


@pytest.fixture
def model() -> Any:
    torch.manual_seed(5)
    return load("darts-v2", **SMALL)


def check_loads(place: str | Path, model: Any) -> None:
    loaded = load("darts-v2", pretrained=place, **SMALL)
    assert all(torch.equal(w, loaded.state_dict()[name]) for name, w in model.state_dict().items())


@pytest.mark.parametrize("file", ["darts-v2.safetensors", "darts-v2.pth", "model.safetensors"])
def test_a_folder_or_a_file(model: Any, tmp_path: Path, file: str) -> None:
    save = torch.save if file.endswith(".pth") else save_file
    save(model.state_dict(), tmp_path / file)
    check_loads(tmp_path / file, model)
    check_loads(str(tmp_path), model)


def test_a_bundle(model: Any, tmp_path: Path) -> None:
    save_bundle(model, hub.architecture("darts-v2"), tmp_path / "bundle")
    check_loads(tmp_path / "bundle", model)
    with pytest.raises(SpaceError, match=r"holds another architecture than 'darts-v1'.*space=DARTS"):
        load("darts-v1", pretrained=tmp_path / "bundle", **SMALL)
    file = tmp_path / "bundle" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    with pytest.raises(SpaceError, match="is damaged"):
        load("darts-v2", pretrained=tmp_path / "bundle", **SMALL)


def test_the_auxiliary_head_may_be_left_out(tmp_path: Path) -> None:
    with_head = load("darts-v2", auxiliary_loss=True, **SMALL)
    save_file(with_head.state_dict(), tmp_path / "net.safetensors")
    model: Any = load("darts-v2", pretrained=tmp_path / "net.safetensors", **SMALL)
    assert model.auxiliary_head is None
    assert torch.equal(model.classifier.weight, with_head.get_parameter("classifier.weight"))


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("missing.safetensors", "cannot read the weights in 'missing.safetensors': No such file"),
        (".", "the folder '.' has none of 'darts-v2.safetensors', 'darts-v2.pth', 'model.safetensors'"),
        ("", "pretrained must be True, False, a path"),
        (None, "pretrained must be True, False, a path.* got None"),
        (1, "pretrained must be True, False, a path.* got 1"),
        ("https://host/net.pth", "an address without a checksum is not read"),
        ("hf://owner", "expected 'hf://owner/repository/file', got 'hf://owner'"),
    ],
)
def test_places_that_hold_no_weights(place: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        load("darts-v2", pretrained=place, **SMALL)


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
def test_sparse_tensors_do_not_pass_for_weights(model: Any, tmp_path: Path) -> None:
    weights = dict(model.state_dict())
    weights["classifier.weight"] = weights["classifier.weight"].to_sparse()
    torch.save(weights, tmp_path / "net.pth")
    with pytest.raises(
        SpaceError, match=r"'classifier\.weight' is a torch\.sparse_coo tensor, in the network"
    ):
        load("darts-v2", pretrained=tmp_path / "net.pth", **SMALL)


# -- Hugging Face --------------------------------------------------------------------------------------


def fake_hub(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[tuple[Any, ...]]:
    """Stand in for huggingface_hub, which is an extra; returns what it is asked for."""
    asked: list[tuple[Any, ...]] = []

    def hf_hub_download(repo_id: str, filename: str, *, revision: str | None, cache_dir: Path) -> str:
        asked.append((repo_id, filename, revision, cache_dir.name))
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=hf_hub_download))
    return asked


@pytest.mark.parametrize(
    ("place", "asked"),
    [
        ("hf://owner/nets", ("owner/nets", "model.safetensors", None, "huggingface")),
        ("hf://owner/nets/a/b.safetensors", ("owner/nets", "a/b.safetensors", None, "huggingface")),
        ("hf://owner/nets@v2/b.safetensors", ("owner/nets", "b.safetensors", "v2", "huggingface")),
    ],
)
def test_hugging_face(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, asked: tuple[Any, ...]
) -> None:
    save_file(model.state_dict(), tmp_path / "net.safetensors")
    calls = fake_hub(monkeypatch, tmp_path / "net.safetensors")
    check_loads(place, model)
    assert calls == [asked]


def test_hugging_face_has_no_such_file(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_hub(monkeypatch, OSError("404 Client Error:\n no such repository"))
    with pytest.raises(
        SpaceError, match="cannot get 'hf://owner/nets': 404 Client Error: no such repository"
    ):
        load("darts-v2", pretrained="hf://owner/nets", **SMALL)


def test_hugging_face_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(SpaceError, match=r"pip install 'spacelang-nas\[huggingface\]'"):
        load("darts-v2", pretrained="hf://owner/nets", **SMALL)


def test_endings_are_read_whatever_their_case() -> None:
    with pytest.raises(SpaceError, match="is not a safetensors file"):
        parse(b"", "NET.SAFETENSORS")


def test_names_with_weights() -> None:
    names = list_models(pretrained=True)
    assert names == [name for name in list_models() if read_entry(name).weights is not None]
    assert "darts-digits" in names
    assert "darts-v2" not in names
    assert len(names) >= 6
    assert list_models("auto*", pretrained=True) == ["autoformer-digits"]


@pytest.mark.parametrize("name", ["darts-digits", "autoformer-digits"])
def test_another_number_of_classes_has_a_new_head(name: str) -> None:
    trained = load(name, pretrained=True).state_dict()
    torch.manual_seed(5)
    fresh = load(name, num_classes=3).state_dict()
    torch.manual_seed(5)
    model = load(name, pretrained=True, num_classes=3).state_dict()
    heads = [key for key in model if model[key].shape != trained[key].shape]
    assert len(heads) == 2
    assert all(torch.equal(model[key], fresh[key] if key in heads else trained[key]) for key in model)


def test_a_new_head_excuses_nothing_else() -> None:
    with pytest.raises(SpaceError, match="do not fit"):
        load("darts-digits", pretrained=True, num_classes=3, width=2)
