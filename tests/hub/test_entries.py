"""The catalogue of published architectures."""

from __future__ import annotations

import pytest

from spacelang import SpaceError, hub
from spacelang.hub import DARTS
from spacelang.hub._entries import read_entry


def test_names_and_wildcards() -> None:
    assert hub.list_models() == ["darts-v1", "darts-v2", "nni-tutorial", "nni-tutorial-tricks"]
    assert hub.list_models("darts-*") == ["darts-v1", "darts-v2"]
    assert hub.list_models("none-*") == []


@pytest.mark.parametrize("name", hub.list_models())
def test_entries_are_complete(name: str) -> None:
    entry = read_entry(name)
    assert entry.name == name
    assert entry.space == "DARTS"
    assert entry.source
    assert dict(entry.arguments) == {"width": 36, "num_cells": 20, "dataset": "cifar"}
    assert all("evidence" in result for result in entry.published)
    inputs = [value for label, value in entry.architecture.items() if "input" in label]
    assert len(inputs) == 16
    assert all(type(value) is int for value in inputs)
    DARTS(width=2, num_cells=3).validate(dict(entry.architecture))


def test_architectures_are_independent_copies() -> None:
    arch = hub.architecture("darts-v2")
    arch["normal/op_2_0"] = "max_pool_3x3"
    assert hub.architecture("darts-v2")["normal/op_2_0"] == "sep_conv_3x3"


def test_load_takes_overrides() -> None:
    model = hub.load("darts-v1", width=4, num_cells=3, num_classes=7)
    assert isinstance(model, DARTS)
    assert model.classifier.out_features == 7


def test_unknown_overrides_are_named() -> None:
    with pytest.raises(SpaceError, match=r"DARTS takes no argument 'widht'.*Closest: 'width'"):
        hub.load("darts-v2", widht=16)


@pytest.mark.parametrize("name", ["darts-v3", "../darts-v2", "", None, 3, ["darts-v2"]])
def test_unknown_names(name: object) -> None:
    for call in (hub.load, hub.architecture, DARTS.load_searched_model):
        with pytest.raises(SpaceError, match=r"unknown architecture.*known names are 'darts-v1'"):
            call(name)  # type: ignore[operator]


def test_the_closest_name_is_named() -> None:
    with pytest.raises(SpaceError, match="Closest: 'darts-v"):
        hub.load("dart-v2")


def test_no_weights_are_published() -> None:
    for call in (hub.load, DARTS.load_searched_model):
        with pytest.raises(SpaceError, match=r"no weights are published for 'darts-v2'.*pretrained=False"):
            call("darts-v2", pretrained=True)


def test_an_entry_belongs_to_its_space() -> None:
    class Other(DARTS):
        pass

    assert isinstance(Other.load_searched_model("darts-v2", width=2, num_cells=3), Other)
    with pytest.raises(SpaceError, match="is an architecture of DARTS, not of dict"):
        read_entry("darts-v2").build(dict, pretrained=False, overrides={})
