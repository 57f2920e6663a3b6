"""The published notation: exact round trips, and nothing but SpaceError for anything malformed."""

from __future__ import annotations

import random
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spacelang import SpaceError
from spacelang.files import load_yaml
from spacelang.hub import DARTS, Genotype, architecture, from_genotype, list_models, to_genotype
from spacelang.hub.operations.cell_operations import DARTS_OPERATIONS
from spacelang.hub.published import read_entry

PUBLISHED: dict[str, str] = load_yaml(Path(__file__).with_name("published_genotypes.yaml"))
DARTS_V2 = PUBLISHED["DARTS_V2"]


@pytest.mark.parametrize("text", PUBLISHED.values(), ids=PUBLISHED)
def test_published_genotypes_round_trip(text: str) -> None:
    genotype = Genotype.parse(text)
    assert str(genotype) == repr(genotype) == text
    arch = from_genotype(text)
    assert len(arch) == 32
    assert to_genotype(arch) == genotype
    assert from_genotype(to_genotype(arch)) == arch
    assert list(from_genotype(genotype)) == list(arch)


def test_labels_follow_the_slots() -> None:
    arch = from_genotype(PUBLISHED["DARTS_V1"])
    assert list(arch.items())[:4] == [
        ("normal/op_2_0", "sep_conv_3x3"),
        ("normal/input_2_0", 1),
        ("normal/op_2_1", "sep_conv_3x3"),
        ("normal/input_2_1", 0),
    ]
    assert (arch["reduce/op_5_1"], arch["reduce/input_5_1"]) == ("avg_pool_3x3", 0)


def entry_name(name: str) -> str:
    """Return the hub's name of a cell, given its name in the authors' repository."""
    name = {"NNI_tutorial_plain": "nni-tutorial"}.get(name, name).replace("DARTS-_", "darts-minus-")
    return name.lower().replace("_", "-").replace(".", "-")


@pytest.mark.parametrize("name", PUBLISHED)
def test_hub_entries_are_the_published_cells(name: str) -> None:
    assert architecture(entry_name(name)) == from_genotype(PUBLISHED[name])


def test_every_darts_entry_is_a_published_cell() -> None:
    shipped = list_models(pretrained=True)  # the cells of another entry
    entries = {name for name in list_models() if read_entry(name).space == "DARTS"} - set(shipped)
    assert entries == set(map(entry_name, PUBLISHED))


@pytest.mark.slow
def test_genotypes_validate_in_the_space() -> None:
    spaces: dict[tuple[str, ...], DARTS] = {}
    for name in map(entry_name, PUBLISHED):
        operations = tuple(read_entry(name).arguments.get("operations", DARTS_OPERATIONS))
        if operations not in spaces:
            spaces[operations] = DARTS(width=2, num_cells=3, operations=operations)
        spaces[operations].validate(from_genotype(to_genotype(architecture(name))))
    assert len(spaces) == 3  # SETN has another convolution, an SNAS cell has edges that are "none"


@pytest.mark.parametrize("name", ["nasnet-a", "amoebanet-a", "enas-micro-repo-fixed-arc", "naonet-b"])
def test_loose_ends_are_concatenated_in_other_spaces(name: str) -> None:
    arch = architecture(name)
    genotype = to_genotype(arch, "loose_end")
    assert Genotype.parse(str(genotype)) == genotype
    assert from_genotype(str(genotype)) == arch
    assert to_genotype(arch) != genotype
    assert to_genotype(arch).normal == genotype.normal


def test_published_loose_ends() -> None:
    amoebanet = to_genotype(architecture("amoebanet-a"), "loose_end")
    assert (amoebanet.normal_concat, amoebanet.reduce_concat) == ((4, 5, 6), (3, 4, 6))
    nasnet = to_genotype(architecture("nasnet-a"), "loose_end")
    assert (nasnet.normal_concat, nasnet.reduce_concat) == ((2, 3, 4, 5, 6), (4, 5, 6))
    with pytest.raises(SpaceError, match=r"normal_concat must be all nodes, .* no node reads, \[4, 5, 6\]"):
        Genotype(amoebanet.normal, (4, 5), amoebanet.reduce, (3, 4, 6))
    with pytest.raises(SpaceError, match="merge_op='some' must be one of 'all', 'loose_end'"):
        to_genotype(architecture("nasnet-a"), "some")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        f"DARTS_V2 = {DARTS_V2}",
        f"\n  {DARTS_V2}\n",
        DARTS_V2.replace("[2, 3, 4, 5]", "range(2, 6)"),
        DARTS_V2.replace("[2, 3, 4, 5]", "list(range(2, 6))"),
        DARTS_V2.replace("[2, 3, 4, 5]", "(2, 3, 4, 5)"),
        DARTS_V2.replace("'", '"'),
        DARTS_V2.replace("), (", "),\n    ("),
        DARTS_V2.replace("('", "['").replace("), ", "], ").replace(")]", "]]").replace("range[", "range("),
    ],
)
def test_published_spellings(text: str) -> None:
    assert str(Genotype.parse(text)) == DARTS_V2


def test_one_element_lists_are_inputs_too() -> None:
    arch = from_genotype(DARTS_V2)
    listed = {label: [value] if "input" in label else value for label, value in arch.items()}
    assert to_genotype(listed) == Genotype.parse(DARTS_V2)


def test_lists_are_kept_as_tuples() -> None:
    slots = [["skip_connect", 0], ["skip_connect", 1]]
    genotype = Genotype(slots, range(2, 3), slots, [2])  # type: ignore[arg-type]
    assert genotype.normal == (("skip_connect", 0), ("skip_connect", 1))
    assert genotype.normal_concat == genotype.reduce_concat == (2,)
    assert hash(genotype) == hash(Genotype.parse(str(genotype)))


def slot(node: int) -> st.SearchStrategy[tuple[str, int]]:
    return st.tuples(st.sampled_from(["sep_conv_3x3", "none", "skip_connect"]), st.integers(0, node - 1))


@st.composite
def genotypes(draw: st.DrawFn) -> Genotype:
    nodes = draw(st.integers(1, 7))
    cells = [tuple(draw(slot(2 + position // 2)) for position in range(2 * nodes)) for _ in range(2)]
    concat = tuple(range(2, 2 + nodes))
    return Genotype(cells[0], concat, cells[1], concat)


@given(genotypes())
@settings(max_examples=60, deadline=None)
def test_any_genotype_round_trips(genotype: Genotype) -> None:
    assert Genotype.parse(str(genotype)) == genotype
    assert to_genotype(from_genotype(genotype)) == genotype


NESTED = [
    "[" * 80 + "]" * 80,
    "[" * 4000,
    "(" * 150 + "1" + ")" * 150,
    "Genotype" + "()" * 4000,
    "Genotype(normal=" * 500,
    "-" * 9000 + "1",
    "Genotype(normal=" + "[" * 90 + "]" * 90 + ", normal_concat=[2], reduce=[], reduce_concat=[2])",
    "not " * 2400 + "a",
    "a=" * 4000 + "a",
    "a" * 1_000_000,
]


@pytest.mark.parametrize("text", NESTED, ids=lambda text: f"{text[:20]}-{len(text)}")
def test_deep_and_long_texts_are_refused(text: str) -> None:
    with pytest.raises(SpaceError):
        from_genotype(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "must be written Genotype"),
        ("__import__('os').getcwd()", "other characters"),
        ("Genotype(normal=__import__('os'))", "must have the fields"),
        (DARTS_V2.replace("[2, 3, 4, 5]", "open('x')"), "may hold lists"),
        (DARTS_V2.replace("[2, 3, 4, 5]", "[2, 3, 4]", 1), "normal_concat must be all nodes"),
        (DARTS_V2.replace("[2, 3, 4, 5]", "range(2, 9999999999999999999999)"), "must be all nodes"),
        (DARTS_V2.replace("[2, 3, 4, 5]", f"[{'9' * 4500}]", 1), "Python cannot read it|must be all"),
        (
            DARTS_V2.replace("('dil_conv_3x3', 2)", "('dil_conv_3x3', 5)"),
            r"normal\[7\] \(node 5\) has inputs 0 to 4",
        ),
        (DARTS_V2.replace("('dil_conv_3x3', 2)", "('dil_conv_3x3', -1)"), "may hold lists"),
        (DARTS_V2.replace("('dil_conv_3x3', 2)", "('dil_conv_3x3', True)"), "may hold lists"),
        (DARTS_V2.replace("('dil_conv_3x3', 2)", "('', 2)"), "must name an operation"),
        (DARTS_V2.replace("('dil_conv_3x3', 2)", "(2, 2)"), "must name an operation"),
        (DARTS_V2.replace("('dil_conv_3x3', 2)", "'dil_conv_3x3'"), "must be a pair"),
        (DARTS_V2.replace(", ('dil_conv_3x3', 2)", ""), "pairs for each of 1 to 64 nodes"),
        (DARTS_V2.replace("reduce_concat", "concat"), "must have the fields"),
        (DARTS_V2[:-1], "Python cannot read it"),
        ("Genotype(recurrent=[('tanh', 0)], concat=range(1, 9))", "must have the fields"),
        (DARTS_V2 + "; " + DARTS_V2, "other characters"),
        (DARTS_V2 + "\n" + DARTS_V2, "must be written Genotype"),
        ("a, b = " + DARTS_V2 + ", 1", "must be written Genotype"),
    ],
)
def test_malformed_texts_say_what_is_wrong(text: str, expected: str) -> None:
    with pytest.raises(SpaceError, match=expected):
        from_genotype(text)


def test_random_mutations_raise_nothing_but_space_errors() -> None:
    rng = random.Random(0)
    alphabet = "[](),='\"_ \n01239abcxyz-+*.:{}#\\\x00é%@"
    accepted = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(4000):
            text = list(DARTS_V2)
            for _ in range(rng.randint(1, 4)):
                start = rng.randrange(len(text))
                new = [rng.choice(alphabet) for _ in range(rng.randint(0, 3))]
                text[start : start + rng.randint(0, 3)] = new
            try:
                genotype = from_genotype("".join(text))
            except SpaceError:
                continue
            assert len(genotype) == 32
            accepted += 1
    assert 0 < accepted < 2000  # renamed operations and other inputs are still genotypes


def test_wrong_types_are_refused() -> None:
    for wrong in (None, 3, {}, b"Genotype()", ["Genotype()"], ("normal", "reduce")):
        with pytest.raises(SpaceError, match="takes a Genotype or its text"):
            from_genotype(wrong)  # type: ignore[arg-type]
    for wrong in (None, 3, "Genotype()", [1]):
        with pytest.raises(SpaceError, match="takes an architecture dict"):
            to_genotype(wrong)  # type: ignore[arg-type]


def test_both_cells_have_the_same_number_of_nodes() -> None:
    one, two = [("a", 0), ("a", 1)], [("a", 0), ("a", 1), ("a", 0), ("a", 1)]
    with pytest.raises(SpaceError, match="normal has 1 and reduce 2"):
        Genotype(one, [2], two, [2, 3])  # type: ignore[arg-type]


def test_labels_that_are_no_genotype_are_all_reported() -> None:
    arch = from_genotype(DARTS_V2)
    arch["normal/ops_2_0"] = arch.pop("normal/op_2_0")
    del arch["reduce/input_5_1"]
    with pytest.raises(SpaceError) as caught:
        to_genotype(arch)
    for part in ("'normal/op_2_0'", "'reduce/input_5_1'", "'normal/ops_2_0'", "Closest"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [None, -1, 5, 2.0, True, [], [0, 1], "1", 10**5000, {"a": 1}],
    ids=lambda value: type(value).__name__,
)
def test_wrong_inputs_are_refused(value: object) -> None:
    with pytest.raises(SpaceError, match=r"normal\[7\] \(node 5\) has inputs 0 to 4"):
        to_genotype({**from_genotype(DARTS_V2), "normal/input_5_1": value})


def test_junk_dicts_are_refused() -> None:
    deep: object = []
    for _ in range(5000):
        deep = [deep]
    for junk in ({}, {1: 2}, {"a": deep}, {**from_genotype(DARTS_V2), "normal/op_2_0": deep}, {(): ()}):
        with pytest.raises(SpaceError):
            to_genotype(junk)  # type: ignore[arg-type]
