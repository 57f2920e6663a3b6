"""MBConv lists: published ones, round trips, malformed ones."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from spacelang import ModelSpace, SpaceError, hub
from spacelang.hub import MobileNetV3Space, ProxylessNAS, ShuffleNetSpace, from_mbconv, to_mbconv
from spacelang.hub.published import read_entry

pytestmark = pytest.mark.slow

PROXYLESS = {
    "proxyless-mobile": """[["k5e3", "k3e3"], ["k7e3", "k3e3", "k5e3", "k5e3"],
        ["k7e6", "k5e3", "k5e3", "k5e3"], ["k5e6", "k5e3", "k5e3", "k5e3"],
        ["k7e6", "k7e6", "k7e3", "k7e3"], ["k7e6"]]""",
    "proxyless-gpu": """[["k5e3"], ["k7e3", "k3e3"], ["k7e6", "k5e3"], ["k5e6", "k3e3", "k5e3"],
        ["k7e6", "k7e6", "k7e6", "k5e6"], ["k7e6"]]""",
    "proxyless-cpu": """[['k3e6', 'k3e3', 'k3e3', 'k3e3'], ['k3e6', 'k3e3', 'k3e3', 'k5e3'], ['k3e6', 'k3e3'],
        ['k5e6', 'k3e3', 'k3e3', 'k3e3'], ['k5e6', 'k5e3', 'k5e3', 'k3e3'], ['k5e6']]""",
}

MOBILENETV3 = {  # the tables of the paper, as torchvision builds them
    "mobilenetv3-large-100": """{"stem": [3, 16, "HS", 2], "blocks": [
        [3, 16, 16, false, "RE", 1], [3, 64, 24, false, "RE", 2], [3, 72, 24, false, "RE", 1],
        [5, 72, 40, true, "RE", 2], [5, 120, 40, true, "RE", 1], [5, 120, 40, true, "RE", 1],
        [3, 240, 80, false, "HS", 2], [3, 200, 80, false, "HS", 1], [3, 184, 80, false, "HS", 1],
        [3, 184, 80, false, "HS", 1], [3, 480, 112, true, "HS", 1], [3, 672, 112, true, "HS", 1],
        [5, 672, 160, true, "HS", 2], [5, 960, 160, true, "HS", 1], [5, 960, 160, true, "HS", 1]]}""",
    "mobilenetv3-small-100": """{'stem': [3, 16, 'HS', 2], 'blocks': [
        [3, 16, 16, True, 'RE', 2], [3, 72, 24, False, 'RE', 2], [3, 88, 24, False, 'RE', 1],
        [5, 96, 40, True, 'HS', 2], [5, 240, 40, True, 'HS', 1], [5, 240, 40, True, 'HS', 1],
        [5, 120, 48, True, 'HS', 1], [5, 144, 48, True, 'HS', 1], [5, 288, 96, True, 'HS', 2],
        [5, 576, 96, True, 'HS', 1], [5, 576, 96, True, 'HS', 1]]}""",
}
NAMES = [n for n in hub.list_models() if read_entry(n).space in ("ProxylessNAS", "MobileNetV3Space")]


@cache
def space_of(name: str) -> Any:
    entry = read_entry(name)
    with torch.device("meta"):
        return {"ProxylessNAS": ProxylessNAS, "MobileNetV3Space": MobileNetV3Space}[entry.space](
            **entry.arguments
        )


@cache
def mobilenet() -> MobileNetV3Space:
    with torch.device("meta"):
        return MobileNetV3Space(width_multipliers=1.0)


@pytest.mark.parametrize(("name", "text"), [*PROXYLESS.items(), *MOBILENETV3.items()])
def test_published_lists(name: str, text: str) -> None:
    assert from_mbconv(text, space_of(name)) == hub.architecture(name)


@pytest.mark.parametrize("name", NAMES)
def test_published_architectures_round_trip(name: str) -> None:
    arch, space = hub.architecture(name), space_of(name)
    notation = to_mbconv(arch, space)
    assert from_mbconv(notation, space) == arch
    assert from_mbconv(str(notation), space) == arch


def test_random_architectures_round_trip() -> None:
    rng = np.random.default_rng(0)
    for space, times in ((space_of("proxyless-gpu"), 20), (mobilenet(), 5)):
        for _ in range(times):
            arch = space.sample(rng)
            assert from_mbconv(to_mbconv(arch, space), space) == arch


def test_to_the_table_of_the_paper() -> None:
    table = to_mbconv(hub.architecture("mobilenetv3-large-100"), space_of("mobilenetv3-large-100"))
    assert table["stem"] == [3, 16, "HS", 2]
    assert [len(rows) for rows in table["blocks"]] == [1, 2, 3, 4, 2, 3]
    assert table["blocks"][3][1] == [3, 200, 80, False, "HS", 1]


def changed(position: int, column: int, value: Any) -> dict[str, Any]:
    table = to_mbconv(hub.architecture("mobilenetv3-large-100"), space_of("mobilenetv3-large-100"))
    rows = [row for rows in table["blocks"] for row in rows]
    rows[position][column] = value
    return {**table, "blocks": rows}


@pytest.mark.parametrize(
    ("notation", "message"),
    [
        (changed(1, 0, 9), r"'s1_i0_ks' got 9; candidates are 3, 5, 7"),
        (changed(1, 1, 56), r"'s1_i0_exp' got 3\.5; candidates are"),
        (changed(3, 3, False), r"block 4 is \[5, 72, 40, False, 'RE', 2\], but \[5, 72, 40, True, 'RE', 2\]"),
        (changed(4, 4, "HS"), "block 5 is"),
        (changed(2, 4, "??"), "block 3 is"),
        (changed(14, 2, 168), "s6_depth"),
        ({"stem": [3, 24, "HS", 2], "blocks": changed(0, 0, 3)["blocks"]}, "'s1_i0_exp' got|the stem is"),
        ({"stem": [3, 16, "HS", 2], "blocks": []}, "an MBConv list of MobileNetV3 is"),
        ({"stem": [3, 16], "blocks": [[3, 16, 16, False, "RE", 1]]}, "an MBConv list of MobileNetV3 is"),
        ({"stem": [3, 16, "HS", 2], "blocks": [[3, 0, 16, False, "RE", 1]]}, "an MBConv list"),
        ({"stem": [3, 16, "HS", 2], "blocks": [[3, "a", 16, False, "RE", 1]]}, "an MBConv list"),
        ([["k3e3"]], "an MBConv list of MobileNetV3 is"),
        (None, "an MBConv list of MobileNetV3 is"),
        ("__import__('os')", "an MBConv list of MobileNetV3 is"),
        ("!!python/object/apply:os.system ['true']", "tag"),
        ("[" * 100, "YAML|nested"),
        ("x" * 20_000, "20000 characters"),
        ("hub/architectures/spos.yaml", "an MBConv list of MobileNetV3 is"),
    ],
)
def test_malformed_tables(notation: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        from_mbconv(notation, space_of("mobilenetv3-large-100"))


@pytest.mark.parametrize(
    ("notation", "message"),
    [
        ([["k3e3"]] * 5, "has 6 lists of names like 'k3e6'"),
        ([["k3e3"]] * 5 + [["k3e4"]], "'s7_i0' got 'k3e4'"),
        ([["k3e3"]] * 5 + [["k3e3", "k3e3"]], "'s7_depth' got 2"),
        ([["k3e3"] * 5] + [["k3e3"]] * 5, "'s2_depth' got 5"),
        ([[]] + [["k3e3"]] * 5, "'s2_depth' got 0"),
        (["k3e3"] * 6, "has 6 lists of names"),
        ({"stages": []}, "has 6 lists of names"),
        ("k3e3", "has 6 lists of names"),
    ],
)
def test_malformed_names(notation: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        from_mbconv(notation, space_of("proxyless-mobile"))


def test_other_spaces_have_no_such_lists() -> None:
    with torch.device("meta"):
        other: ModelSpace = ShuffleNetSpace()
        searched = MobileNetV3Space()
    for call in (to_mbconv, from_mbconv):
        with pytest.raises(SpaceError, match="belong to ProxylessNAS and MobileNetV3Space; got a Shuffle"):
            call({}, other)  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match=r"says nothing of width multipliers.*width_multipliers=1\.0"):
        from_mbconv(MOBILENETV3["mobilenetv3-large-100"], searched)
