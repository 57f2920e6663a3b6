"""The catalogue of published architectures."""

from __future__ import annotations

import pytest

from spacelang import ModelSpace, SpaceError, hub
from spacelang.hub import DARTS
from spacelang.hub.published import build, entries, read_entry


def test_names_and_wildcards() -> None:
    assert hub.list_models("darts-v*") == ["darts-v1", "darts-v2"]
    assert len(hub.list_models("sgas-cri*")) == 60
    assert hub.list_models("none-*") == []
    assert hub.list_models() == sorted(set(hub.list_models()))
    assert hub.list_models("nni-tutorial*") == ["nni-tutorial", "nni-tutorial-tricks"]


def test_names_are_unique() -> None:
    names = [entry.name for file in entries._files() for entry in entries._read(file.read_text("utf-8"))]
    assert sorted(names) == hub.list_models()


def test_published_cells_of_other_spaces_than_darts() -> None:
    """Cells of DARTS are in published_genotypes.yaml, mobile networks in test_mobile.py."""
    benchmark = ("resnet", "best-cifar10-family", "all-conv3x3", "all-conv1x1", "all-skip", "all-none")
    expected = {
        "NASNet": {"nasnet-a"},
        "AmoebaNet": {"amoebanet-a"},
        "PNAS": {"pnasnet-5"},
        "ENAS": {"enas-micro-paperfig", "enas-micro-repo-fixed-arc", "naonet-b", "naonet-v2"},
        "ENASMacro": {"enas-macro-24l"},
        "FairDARTS": {f"fairdarts-{letter}" for letter in "abcdefg"},
        "NASBench201": {f"nb201-{name}" for name in benchmark},
        "AutoFormer": {"autoformer-tiny", "autoformer-small", "autoformer-base", "autoformer-digits"},
    }
    for space, names in expected.items():
        assert {name for name in hub.list_models() if read_entry(name).space == space} == names


@pytest.mark.parametrize("name", hub.list_models())
def test_entries_are_complete(name: str) -> None:
    entry = read_entry(name)
    assert entry.name == name
    assert issubclass(getattr(hub, entry.space), ModelSpace)
    assert entry.source
    assert entry.architecture
    for result in entry.published:
        assert result["evidence"]
        assert "recall" not in result["evidence"]
    for row in entry.counts:
        known = {"arguments", "parameters", "macs", "image", "tokens"}
        assert {"arguments", "parameters"} <= row.keys() <= known


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
        with pytest.raises(SpaceError, match=r"unknown architecture.*list_models\(\) has all"):
            call(name)  # type: ignore[operator]


def test_the_closest_names_are_named() -> None:
    with pytest.raises(SpaceError, match="closest names are 'darts-v2', 'darts-v1'"):
        hub.load("dart-v2")
    with pytest.raises(SpaceError, match="'sgas-cri1-cifar-3'"):
        hub.load("sgas-cri1-cifar3")


def test_no_weights_are_published() -> None:
    for call in (hub.load, DARTS.load_searched_model):
        with pytest.raises(SpaceError, match=r"no weights are published for 'darts-v2'.*pretrained=False"):
            call("darts-v2", pretrained=True)


def test_an_entry_belongs_to_its_space() -> None:
    class Other(DARTS):
        pass

    assert isinstance(Other.load_searched_model("darts-v2", width=2, num_cells=3), Other)
    with pytest.raises(SpaceError, match="is an architecture of DARTS, not of dict"):
        build(read_entry("darts-v2"), dict, pretrained=False, overrides={})
