"""Penn Treebank as language models use it; the files belong to their owner and are read, never fetched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from spacelang.errors import SpaceError
from spacelang.files import require_sha256

from .text import TextSplits, numbered

END = "<eos>"
_PARTS = ("train", "valid", "test")


def penn_treebank(folder: str | Path, *, sha256: Mapping[str, str] | None = None) -> TextSplits:
    """Return a text of three files, one sentence a line, as numbers of words.

    A line is its words, split at white space, and `<eos>`; there is no start symbol. Words are numbered in
    order of first appearance in the training text, then in the other two.

    The copyright of Penn Treebank is with the Linguistic Data Consortium. The usual version has 10,000 words;
    rare words are `<unk>` and numbers `N`. No trusted checksum of the files is known here;
    pass `sha256` for your own.

    Args:
        folder: Folder with `train.txt`, `valid.txt` and `test.txt`, or the same names after `ptb.`.
        sha256: Checksums to compare files with before they are read, {path in the folder: 64 hexadecimal
            digits}; None for no check.

    Raises:
        SpaceError: A file is missing or is no text.

    Source: T. Mikolov et al., Recurrent neural network based language model, 2010 (its version of the text).
    """
    require_sha256(Path(folder), sha256)
    (train, val, test), words = numbered(_words(_file(Path(folder), part)) for part in _PARTS)
    return TextSplits(train, val, test, words)


def _file(folder: Path, part: str) -> Path:
    names = (f"{part}.txt", f"ptb.{part}.txt")
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise SpaceError(
        f"there is neither {names[0]} nor {names[1]} in '{folder}'. Get Penn Treebank (ptb.train.txt, "
        "ptb.valid.txt, ptb.test.txt) and pass the folder that holds it."
    )


def _words(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield from line.split()
                yield END
    except (OSError, UnicodeDecodeError) as error:
        raise SpaceError(f"cannot read '{path}': {error}") from error
