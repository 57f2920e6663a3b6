"""Tuples, sparse genotypes, NAS-Bench-201 strings: exact round trips; what is malformed is a SpaceError."""

from __future__ import annotations

import numpy as np
import pytest

from spacelang import SpaceError, hub
from spacelang.hub import (
    FairDARTS,
    NASBench201,
    from_blocks,
    from_nasbench201,
    from_sparse_genotype,
    to_blocks,
    to_nasbench201,
    to_sparse_genotype,
)

RESNET = "|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|skip_connect~2|"
FAIR = (
    "Genotype(normal=[('sep_conv_3x3', 2, 0), ('sep_conv_5x5', 2, 1), ('max_pool_3x3', 4, 0), "
    "('sep_conv_3x3', 5, 0)], normal_concat=[2, 4, 5], "
    "reduce=[('max_pool_3x3', 2, 0), ('avg_pool_3x3', 2, 1), ('avg_pool_3x3', 3, 0), ('dil_conv_5x5', 3, 1), "
    "('avg_pool_3x3', 4, 0), ('sep_conv_5x5', 4, 1), ('skip_connect', 5, 0), ('skip_connect', 5, 1)], "
    "reduce_concat=[2, 3, 4, 5])"
)


@pytest.mark.parametrize("name", ["nasnet-a", "amoebanet-a", "pnasnet-5", "naonet-v2", "darts-v2"])
def test_tuples_round_trip(name: str) -> None:
    arch = hub.architecture(name)
    normal, reduce = to_blocks(arch)
    assert from_blocks(normal, reduce) == arch
    assert from_blocks([(*block, "add") for block in normal], reduce) == arch  # type: ignore[misc]


def test_tuples_of_a_published_cell() -> None:
    normal, _ = to_blocks(hub.architecture("nasnet-a"))
    assert normal[0] == (1, 0, "sep_conv_5x5", "sep_conv_3x3")
    assert normal[3] == (0, 0, "avg_pool_3x3", "avg_pool_3x3")


def test_strings_round_trip() -> None:
    assert from_nasbench201(RESNET) == hub.architecture("nb201-resnet")
    space, rng = NASBench201(width=2, num_cells=1), np.random.default_rng(0)
    for _ in range(20):
        arch = space.sample(rng)
        assert from_nasbench201(to_nasbench201(arch)) == arch
    for name in hub.list_models("nb201-*"):
        assert to_nasbench201(from_nasbench201(to_nasbench201(hub.architecture(name)))).count("|") == 9


def test_sparse_genotypes_round_trip() -> None:
    assert from_sparse_genotype(FAIR) == hub.architecture("fairdarts-a")
    assert to_sparse_genotype(from_sparse_genotype(FAIR)) == FAIR
    space, rng = FairDARTS(width=2, num_cells=3, dataset=(1, 8, 5)), np.random.default_rng(0)
    for arch in (*map(hub.architecture, hub.list_models("fairdarts-*")), space.sample(rng)):
        assert from_sparse_genotype(to_sparse_genotype(arch)) == arch


@pytest.mark.parametrize(
    "text",
    [
        "",
        "|",
        None,
        3,
        RESNET[1:],
        RESNET.replace("~1", "~0"),
        RESNET.replace("none", "nothing"),
        RESNET.replace("+", "|"),
        RESNET + "+",
        RESNET.replace("skip_connect~2", "__import__('os')~2"),
        RESNET.replace("|none~0", "|"),
    ],
)
def test_malformed_strings(text: object) -> None:
    with pytest.raises(SpaceError, match="a NAS-Bench-201 cell is written"):
        from_nasbench201(text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("normal", "expected"),
    [
        ([(0, 1, "a")], r"normal\[0\] must be \(input, input"),
        ([(0, 2, "a", "b")], "inputs 0 to 1"),
        ([(0, 1, "a", "b", "concat")], r"normal\[0\] must be"),
        (["ab"], r"normal\[0\] must be"),
        ([], "pairs for each of"),
        ([(0, 1, 3, "b")], "must name an operation"),
    ],
)
def test_malformed_tuples(normal: list[object], expected: str) -> None:
    with pytest.raises(SpaceError, match=expected):
        from_blocks(normal, [(0, 1, "a", "b")])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "takes a text"),
        ("Genotype()", "must have the fields"),
        (FAIR.replace("('sep_conv_3x3', 2, 0)", "('sep_conv_3x3', 2, 2)"), r"normal\[0\] must be"),
        (FAIR.replace("('sep_conv_3x3', 2, 0)", "('sep_conv_3x3', 2)"), r"normal\[0\] must be"),
        (FAIR.replace("('sep_conv_5x5', 2, 1)", "('sep_conv_5x5', 2, 0)"), r"normal\[1\] must be"),
        (FAIR.replace("('sep_conv_3x3', 2, 0)", "open('x')"), "may hold lists"),
        (FAIR.replace("reduce=[", "reduce=3, x=["), "must have the fields"),
    ],
)
def test_malformed_sparse_genotypes(text: str, expected: str) -> None:
    with pytest.raises(SpaceError, match=expected):
        from_sparse_genotype(text)
