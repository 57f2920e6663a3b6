"""Published cells have the parameters and multiply-accumulates that were counted elsewhere, exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from spacelang import hub, profile
from spacelang.files import load_yaml
from spacelang.hub.published import read_entry

from .networks import n_macs, n_parameters

pytestmark = pytest.mark.slow

COUNTS: dict[str, dict[str, list[Any]]] = load_yaml(Path(__file__).with_name("cell_counts.yaml"))
ARGUMENTS: dict[str, dict[str, Any]] = {
    "cifar10": {},
    "cifar100": {"num_classes": 100},
    "imagenet": {"dataset": "imagenet", "width": 48, "num_cells": 14},
    "imagenet16-120": {"dataset": (3, 16, 120)},
}
BENCHMARK = [name for name in COUNTS if name.startswith("nb201")]
BUILT = [(name, key) for name in COUNTS for key in COUNTS[name] if key != "cifar100" or name in BENCHMARK]
OTHERS = {"ENASMacro", "AutoFormer"}
SPACES = {"DARTS", "NASNet", "AmoebaNet", "PNAS", "ENAS", "FairDARTS", "NASBench201"}
NOT_KNOWN = [  # or not exactly
    name
    for name in hub.list_models()
    if read_entry(name).space in SPACES | OTHERS
    and not isinstance(COUNTS.get(name, {}).get("cifar10", [None])[-1], int)
]


@pytest.fixture(autouse=True)
def without_first_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here has data, so nothing is to be initialised."""
    for layer in (nn.Conv2d, nn.Linear, nn.BatchNorm2d):
        monkeypatch.setattr(layer, "reset_parameters", lambda self: None)


def check_macs(model: nn.Module, expected: float | None, *image: int) -> None:
    if expected is None:
        return
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.forward = lambda x: x  # type: ignore[method-assign]  # slow without data, and not counted
    assert agree(n_macs(model, *image), expected)


def agree(found: int, expected: float | None) -> bool:
    """Return whether multiply-accumulates are as expected, which may be rounded millions, or unknown."""
    if isinstance(expected, float):
        return round(found / 1e6, 2) == expected
    return expected in (None, found)


def check_parameters(model: Any, without: int, both: int | None) -> None:
    found = n_parameters(model)
    assert found - n_parameters(model.auxiliary_head) == without
    assert both in (None, found)


@pytest.mark.parametrize(("name", "key"), BUILT, ids=[f"{name}-{key}" for name, key in BUILT])
def test_counts(name: str, key: str) -> None:
    parameters, with_auxiliary, macs = COUNTS[name][key]
    size = 224 if key == "imagenet" else 32
    with torch.device("meta"):
        if name in BENCHMARK:
            model = hub.load(name, **ARGUMENTS[key])
            assert n_parameters(model) == parameters
            check_macs(model, macs, 3, size, size)
            return
        model = hub.load(name, auxiliary_loss=True, **ARGUMENTS[key])
        check_parameters(model, parameters, with_auxiliary)
        check_macs(model, macs, 3, size, size)
        if key == "cifar10" and "cifar100" in COUNTS[name]:
            to_classes(model, 100)
            check_parameters(model, *COUNTS[name]["cifar100"][:2])


def to_classes(model: Any, count: int) -> None:
    """Exchange both classifiers."""
    model.classifier = nn.Linear(model.classifier.in_features, count)
    model.auxiliary_head[-1] = nn.Linear(model.auxiliary_head[-1].in_features, count)


@pytest.mark.parametrize("name", ["darts-v2", "nasnet-a"])
def test_classes_of_another_dataset(name: str) -> None:
    with torch.device("meta"):
        model = hub.load(name, num_classes=100, auxiliary_loss=True)
        check_parameters(model, *COUNTS[name]["cifar100"][:2])
        other: Any = hub.load(name, auxiliary_loss=True)
        to_classes(other, 100)
    shapes = [[tuple(p.shape) for p in network.parameters()] for network in (model, other)]
    assert shapes[0] == shapes[1]


def test_every_space_is_counted() -> None:
    spaces = {read_entry(name).space for name in COUNTS}
    assert spaces == SPACES
    assert sum(map(len, COUNTS.values())) > 100


def test_entries_say_the_same_counts() -> None:
    """The counts in the hub's data files are the counts tested here."""
    for name, known in COUNTS.items():
        told = {repr(sorted(row["arguments"].items())): row for row in read_entry(name).counts}
        for key, (parameters, with_auxiliary, macs) in known.items():
            arguments = {k: list(v) if isinstance(v, tuple) else v for k, v in ARGUMENTS[key].items()}
            row = told[repr(sorted(arguments.items()))]
            assert row["parameters"] == parameters
            assert "macs" not in row or agree(row["macs"], macs)
            if with_auxiliary is not None:
                row = told[repr(sorted({**arguments, "auxiliary_loss": True}.items()))]
                assert row["parameters"] == with_auxiliary


@pytest.mark.parametrize("name", NOT_KNOWN)
def test_counts_that_only_the_entries_say(name: str) -> None:
    (row,) = (row for row in read_entry(name).counts if not row["arguments"])
    with torch.device("meta"):
        model = hub.load(name)
        assert n_parameters(model) == row["parameters"]
        check_macs(model, row["macs"], *row["image"])


def test_counts_of_a_narrow_network() -> None:
    with torch.device("meta"):
        check_parameters(hub.load("darts-v2", width=16, num_cells=8, auxiliary_loss=True), 246_106, 681_572)


def test_profile_counts_the_same() -> None:
    found = profile(hub.load("nb201-resnet"), torch.empty(1, 3, 32, 32))
    assert (found.parameters, found.macs) == (559_386, 78_561_920)
