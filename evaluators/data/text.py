"""Texts as numbered words, and the windows in which a recurrent model reads one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from spacelang.errors import SpaceError, require_integer


@dataclass(frozen=True)
class TextSplits:
    """One text in three parts, as numbers of words or characters.

    Attributes:
        train: Part to search and train with, (N,).
        val: Part to compare models with, (N,).
        test: Part for the final number only, (N,).
        words: Words in the order of their numbers.
    """

    train: Tensor
    val: Tensor
    test: Tensor
    words: tuple[str, ...]


class Memory:
    """Hidden states at the beginning and at the end of the present window, detached.

    One object belongs to one pass over a text. A window that is computed several times, as in a second-order
    step, begins with the same state each time.
    """

    def __init__(self) -> None:
        self._states: dict[int, Any] = {0: None}

    def before(self, start: int) -> Any:
        """Return the state at the beginning of a window; None where the text begins, or nothing is known."""
        return self._states.get(start)

    def keep(self, start: int, end: int, state: Any) -> None:
        """Keep the state at the end of a window."""
        detached = tree_map_only(Tensor, Tensor.detach, state)
        self._states = {start: self._states.get(start), end: detached}


class Window(NamedTuple):
    """A batch of consecutive text: the next window begins where this one ends, in every row.

    Attributes:
        inputs: Words, (B, T).
        targets: The words that follow them, (B, T).
        start: Position of the first input in its row.
        memory: Hidden states of this pass over the text.
    """

    inputs: Tensor
    targets: Tensor
    start: int
    memory: Memory


class Windows:
    """A loader of windows: the text is cut into `batch_size` rows, which are read side by side.

    The words that do not fill a row are left out, and the last word of a row is never an input.

    Args:
        text: Numbers of words, (N,).
        batch_size: Number of rows.
        length: Words in a window.
        varied: Whether lengths are drawn in each pass, from torch's global generator: length or, with
            probability 0.05, half of it, plus N(0, 5), at least 5 and at most length + 20.

    Raises:
        SpaceError: The text is not a vector of integers, or gives less than two words a row.

    Source: AWD-LSTM, Merity et al. 2018, arXiv:1708.02182, section 3.1 (varied lengths).
    """

    def __init__(self, text: Tensor, batch_size: int, length: int = 35, *, varied: bool = False) -> None:
        if not isinstance(text, Tensor) or text.dim() != 1 or text.dtype != torch.int64:
            raise SpaceError(
                "a text is a vector of word numbers, torch.int64; pass a part of TextSplits, such as "
                "penn_treebank(folder).train."
            )
        require_integer("batch_size", batch_size, least=1, most=max(1, len(text) // 2))
        require_integer("length", length, least=1)
        columns = len(text) // batch_size
        self.rows = text[: columns * batch_size].view(batch_size, columns)
        self.length = length
        self.varied = varied

    def __iter__(self) -> Iterator[Window]:
        memory, start, last = Memory(), 0, self.rows.shape[1] - 1
        generator = torch.Generator()
        if self.varied:
            generator.manual_seed(int(torch.empty((), dtype=torch.int64).random_()))
        while start < last:
            end = min(start + self._length(generator), last)
            yield Window(self.rows[:, start:end], self.rows[:, start + 1 : end + 1], start, memory)
            start = end

    def _length(self, generator: torch.Generator) -> int:
        if not self.varied:
            return self.length
        half = torch.rand((), generator=generator) < 0.05
        mean = self.length / 2 if half else float(self.length)
        drawn = int(mean + 5 * torch.randn((), generator=generator))
        return min(max(5, drawn), self.length + 20)

    def __len__(self) -> int:
        if self.varied:
            raise TypeError("windows of varied lengths have no fixed number")
        return -(-(self.rows.shape[1] - 1) // self.length)


def numbered(parts: Iterable[Iterable[str]]) -> tuple[list[Tensor], tuple[str, ...]]:
    """Number the words of several parts in order of first appearance; return the parts and all words."""
    numbers: dict[str, int] = {}
    found = [torch.tensor([numbers.setdefault(w, len(numbers)) for w in part]).long() for part in parts]
    return found, tuple(numbers)


def help_pages(characters: int = 200_000) -> TextSplits:
    """Return the help pages that ship with Python, as characters; the last two tenths are val and test.

    The text depends on the version of Python.

    Args:
        characters: Length of the text, all three parts together; all of it where there is less.
    """
    from pydoc_data.topics import topics

    require_integer("characters", characters, least=100)
    text = "\n".join(topics[name] for name in sorted(topics))[:characters]
    first, second = len(text) * 8 // 10, len(text) * 9 // 10
    (train, val, test), words = numbered([text[:first], text[first:second], text[second:]])
    return TextSplits(train, val, test, words)
