"""Texts: Penn Treebank's files, numbered by hand, and the help pages that ship with Python."""

from __future__ import annotations

from pathlib import Path

import pytest

from spacelang.errors import SpaceError
from spacelang.evaluators.data import Windows, help_pages, penn_treebank


@pytest.mark.parametrize("prefix", ["", "ptb."])
def test_words_are_numbered_in_order_of_first_appearance(tmp_path: Path, prefix: str) -> None:
    """Written out by hand: every line ends with <eos>, an empty one is <eos> alone."""
    lines = {"train": " the cat <unk> \n\n the N\n", "valid": "dog the\n", "test": "N emu"}
    for part, text in lines.items():
        (tmp_path / f"{prefix}{part}.txt").write_text(text)
    splits = penn_treebank(tmp_path)
    assert splits.words == ("the", "cat", "<unk>", "<eos>", "N", "dog", "emu")
    assert splits.train.tolist() == [0, 1, 2, 3, 3, 0, 4, 3]
    assert splits.val.tolist() == [5, 0, 3]
    assert splits.test.tolist() == [4, 6, 3]
    batches = [(window.inputs.tolist(), window.targets.tolist()) for window in Windows(splits.train, 2, 2)]
    assert batches == [([[0, 1], [3, 0]], [[1, 2], [0, 4]]), ([[2], [4]], [[3], [3]])]


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"neither train.txt nor ptb.train.txt .*Get Penn Treebank"):
        penn_treebank(tmp_path)
    (tmp_path / "train.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpaceError, match="cannot read"):
        penn_treebank(tmp_path)


def test_the_help_pages_of_python() -> None:
    splits = help_pages(1000)
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [800, 100, 100]
    text = "".join(splits.words[number] for number in splits.train.tolist())
    assert "assert" in text  # the first page is of the assert statement
    assert len(set(splits.words)) == len(splits.words)
