"""Widths of texts, known without a font file, so that a picture can be laid out in a millisecond."""

from __future__ import annotations

import unicodedata

FONT = "DejaVu Sans"  # ships with matplotlib; elsewhere a reader's own sans-serif, which is narrower

# Advance widths of the characters from space to tilde, in 1/2048 of the font's size.
_UNITS = 2048
_ADVANCES = (
    651, 821, 942, 1716, 1303, 1946, 1597, 563, 799, 799, 1024, 1716, 651, 739, 651, 690, 1303, 1303, 1303,
    1303, 1303, 1303, 1303, 1303, 1303, 1303, 690, 690, 1716, 1716, 1716, 1087, 2048, 1401, 1405, 1430, 1577,
    1294, 1178, 1587, 1540, 604, 604, 1343, 1141, 1767, 1532, 1612, 1235, 1612, 1423, 1300, 1251, 1499, 1401,
    2025, 1403, 1251, 1403, 799, 690, 799, 1716, 1024, 1024, 1255, 1300, 1126, 1300, 1260, 721, 1300, 1298,
    569, 569, 1186, 569, 1995, 1298, 1253, 1300, 1300, 842, 1067, 803, 1298, 1212, 1675, 1212, 1212, 1075,
    1303, 690, 1303, 1716,
)  # fmt: skip
_LATIN, _WIDE = 1400, 2800  # other characters: at most, nearly always


def text_width(text: str, size: float) -> float:
    """Return the width of a line of text in inches, for a size in points; an upper bound outside ASCII."""
    return sum(map(_advance, text)) / _UNITS * size / 72


def _advance(character: str) -> int:
    place = ord(character) - 32
    if 0 <= place < len(_ADVANCES):
        return _ADVANCES[place]
    return _WIDE if unicodedata.east_asian_width(character) in "WF" else _LATIN


def shortened(text: str, longest: int) -> str:
    """Return a text on one line of printable characters, its middle left out if it is too long."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split()) or "''"
    if len(line) <= longest:
        return line
    half = (longest - 1) // 2
    return f"{line[:half]}…{line[-half:]}"
