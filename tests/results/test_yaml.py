"""YAML: exact round trips, a small safe subset, every problem a SpaceError."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from spacelang import SpaceError
from spacelang.files import dump_yaml, load_yaml

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
DATA = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
TRAPS = [
    "on", "no", "012", "1e-3", "null", "~", "", "true", "1_000", "0x1f", "12:30:45", "2020-01-01", ".inf",
    "=", "<<", "- a", "a: b", "&a", "*a", "!t", "#", "1.", "-.5", "+1", "0o7", "x\x00y", "\x85", "\ufeff",
    "\u2028", "é", "a\nb", " a ", "'", '"', "%", "@", "`", "...", "---", "NaN", "🙂", "\t", "a" * 5000,
]  # fmt: skip


def same(a: object, b: object) -> bool:
    """Equal and of equal types throughout (1, 1.0 and True differ, -0.0 and 0.0 too)."""
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and repr(a) == repr(b)


@pytest.mark.slow
@given(DATA)
@settings(max_examples=300, deadline=None)
def test_round_trip_is_exact(data: object) -> None:
    assert same(load_yaml(dump_yaml(data)), data)


@pytest.mark.parametrize("text", TRAPS)
def test_strings_stay_strings(text: str) -> None:
    data = {"label": text, text: [text, {text: text}]}
    assert same(load_yaml(dump_yaml(data)), data)


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_other_readers_see_the_same_strings(text: str) -> None:
    assert yaml.safe_load(dump_yaml({"value": text})) == {"value": text}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("1E5", 1e5), ("1.5", 1.5), ("-.5", -0.5), (".inf", math.inf), ("-.inf", -math.inf),
        ("12", 12), ("-0", 0), ("012", "012"), ("on", "on"), ("no", "no"), ("1_000", "1_000"), ("true", True),
        ("null", None), ("2020-01-01", "2020-01-01"), ("0x10", "0x10"), ("'1e-3'", "1e-3"), ("1:30", "1:30"),
    ],
)  # fmt: skip
def test_plain_scalars_mean_what_they_look_like(text: str, value: object) -> None:
    assert same(load_yaml(f"key: {text}\n"), {"key": value})


def test_nan_and_tuples() -> None:
    assert math.isnan(load_yaml(dump_yaml([math.nan]))[0])
    assert load_yaml(dump_yaml({"size": (3, (1, 2))})) == {"size": [3, [1, 2]]}


def test_shared_lists_are_written_without_anchors() -> None:
    shared = [1, 2]
    text = dump_yaml({"a": shared, "b": shared})
    assert "&" not in text
    assert text == "a: [1, 2]\nb: [1, 2]\n"


def test_reads_a_path_or_a_text(tmp_path: Path) -> None:
    file = tmp_path / "arch.yaml"
    file.write_text("a: 1\n")
    assert load_yaml(file) == load_yaml(str(file)) == load_yaml("a: 1\n") == load_yaml("{a: 1}") == {"a": 1}


BAD = {
    "alias bomb": "a: &a [x, x]\nb: &b [*a, *a]\n",
    "alias": "a: *b\n",
    "duplicate": "a: 1\na: 2\n",
    "equal keys": "1: a\n1.0: b\n",
    "tag": "a: !!python/object/apply:os.system ['true']\n",
    "standard tag": "a: !!int '1'\n",
    "second document": "a: 1\n---\nb: 2\n",
    "list key": "? [1, 2]\n: 3\n",
    "empty": "",
    "comment only": "# nothing\n",
    "open bracket": "[1, 2",
    "tab": "a:\n\t- 1\n",
    "control": "a: \x01\n",
    "surrogate": "a: \ud800\n",
    "deep flow": "[" * 5000,
    "deep closed": "[" * 90 + "]" * 90,
    "deep blocks": "\n".join(" " * i + "a:" for i in range(200)),
    "long integer": "a: " + "9" * 20000,
    "too long": "a: " + "x" * (5 << 20),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_text_is_a_space_error(name: str) -> None:
    with pytest.raises(SpaceError):
        load_yaml(BAD[name] + "\n")


def test_errors_name_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "arch.yaml"
    file.write_text("a: 1\nb: 2\na: 3\n")
    with pytest.raises(SpaceError, match=r"arch\.yaml', line 3, column 1: the key 'a' twice"):
        load_yaml(file)


def test_bad_files(tmp_path: Path) -> None:
    binary = tmp_path / "x.yaml"
    binary.write_bytes(bytes(range(128, 256)))
    for path in (binary, tmp_path / "none.yaml", tmp_path, str(tmp_path / "none.yaml"), "a\0b.yaml", 3, None):
        with pytest.raises(SpaceError):
            load_yaml(path)  # type: ignore[arg-type]


@given(st.binary(max_size=200) | st.text(alphabet="[]{}:,&*!|>-?'\"\n a1#%@", max_size=60).map(str.encode))
@settings(max_examples=300, deadline=None)
def test_junk_is_data_or_a_space_error(junk: bytes) -> None:
    with suppress(SpaceError):
        load_yaml(junk.decode("latin-1") + "\n")


def test_refuses_what_it_cannot_write() -> None:
    cycle: list[object] = []
    cycle.append(cycle)
    for data in (cycle, {1, 2}, b"x", {"a": object()}, {(1, 2): 3}, "\ud800", 1 << 100_000, Path("x")):
        with pytest.raises(SpaceError):
            dump_yaml(data)
    with pytest.raises(SpaceError, match=r"data\['a'\]\[1\] is a builtins.set"):
        dump_yaml({"a": [1, {2}]})
