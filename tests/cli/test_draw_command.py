"""`spacelang draw`: pictures of architecture files, and one line for files that hold none."""

from __future__ import annotations

from pathlib import Path

import pytest

from spacelang.cli import main

CELL = """\
normal/op_2_0: sep_conv_3x3
normal/input_2_0: 0
normal/op_2_1: skip_connect
normal/input_2_1: 1
"""


@pytest.fixture
def architecture(tmp_path: Path) -> Path:
    """A file with one small cell."""
    path = tmp_path / "arch.yaml"
    path.write_text(CELL)
    return path


@pytest.mark.parametrize(("name", "magic"), [("cell.svg", b"<svg xmlns="), ("cell.png", b"\x89PNG")])
def test_draws_svg_and_png(
    tmp_path: Path, architecture: Path, capsys: pytest.CaptureFixture[str], name: str, magic: bytes
) -> None:
    picture = tmp_path / name
    assert main(["draw", str(architecture), str(picture)]) == 0
    assert picture.read_bytes().startswith(magic)
    assert capsys.readouterr().out == f"wrote {picture}\n"


def test_reads_an_architecture_inside_a_description(tmp_path: Path) -> None:
    plain, inside = tmp_path / "plain.yaml", tmp_path / "inside.yaml"
    plain.write_text(CELL)
    inside.write_text("name: x\narchitecture:\n" + "".join(f"  {line}\n" for line in CELL.splitlines()))
    for path in (plain, inside):
        assert main(["draw", str(path), str(path.with_suffix(".svg"))]) == 0
    assert plain.with_suffix(".svg").read_bytes() == inside.with_suffix(".svg").read_bytes()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("a: [1", "not valid YAML"),
        ("- 1\n- 2\n", "expected a mapping"),
        ("a: 1\na: 2\n", "twice"),
        ("normal/op_2_0: skip\nnormal/input_2_0: 7\n", "normal/input_2_0"),
        ("a: !!python/object/apply:os.getcwd []\n", "tag"),
    ],
)
def test_bad_files_get_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    assert main(["draw", str(path), str(tmp_path / "out.svg")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (tmp_path / "out.svg").exists()


def test_missing_and_unusable_paths_get_one_line(
    tmp_path: Path, architecture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = [
        [str(tmp_path / "missing.yaml"), str(tmp_path / "out.svg")],
        [str(architecture), str(tmp_path / "out.gif")],
        [str(architecture), str(tmp_path / "no" / "folder" / "out.svg")],
        [str(tmp_path), str(tmp_path / "out.svg")],
        [str(architecture)],
    ]
    for arguments in wrong:
        assert main(["draw", *arguments]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1, arguments
    assert [path.name for path in tmp_path.iterdir()] == ["arch.yaml"]
