"""The two contexts of the language: building a frozen model, and copying one with replacements."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

from ..errors import SpaceError, quoted
from .decisions import Decision, problem


class FreezeContext:
    """The architecture in force inside `model_context`, and which of its labels were asked for."""

    def __init__(self, arch: Mapping[str, Any]) -> None:
        self.arch = MappingProxyType(dict(arch))
        self.used: set[str] = set()
        self.depth = 0  # of spaces under construction, one inside another

    @contextmanager
    def building(self) -> Iterator[None]:
        """Count one more space under construction."""
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1

    def resolve(self, value: Any) -> Any:
        """Return the plain value of a `Value` under the architecture, or the `Value` while that is not known.

        A label that is missing or wrong is no error yet: it may belong to a choice built eagerly inside a
        candidate that is not chosen. What stays undecided in a finished `ModelSpace` is reported by it, all
        at once.

        Raises:
            SpaceError: Outside a `ModelSpace`, a value is no candidate.
        """
        problems = self.problems(value.decisions())
        present = all(decision.label in self.arch for decision in value.decisions())
        return value if problems and (self.depth > 0 or not present) else value.evaluate(self.arch)

    def problems(self, decisions: Iterable[Decision]) -> list[str]:
        """Return why `decisions` cannot be read off the architecture; count them as asked for."""
        wanted = {decision.label: decision for decision in decisions}
        self.used.update(wanted)
        return [text for decision in wanted.values() if (text := problem(decision, self.arch))]


_context: ContextVar[FreezeContext | None] = ContextVar("spacelang_freeze", default=None)
_replace: ContextVar[Callable[[Any], Any] | None] = ContextVar("spacelang_replace", default=None)


def current_context() -> FreezeContext | None:
    """Return the `model_context` in force, or None."""
    return _context.get()


def current_architecture() -> Mapping[str, Any] | None:
    """Return the read-only architecture of the `model_context` in force; None while a space is declared."""
    context = _context.get()
    return None if context is None else context.arch


@contextmanager
def space_mode() -> Iterator[None]:
    """Suspend `model_context`: what is built inside is a space."""
    token = _context.set(None)
    try:
        yield
    finally:
        _context.reset(token)


@contextmanager
def model_context(arch: Mapping[str, Any]) -> Iterator[None]:
    """Build fixed models: inside, every choice returns what the architecture chose.

    A `LayerChoice` returns its chosen candidate itself, a `Repeat` an `nn.Sequential`, a `value_choice` the
    value: no wrapper, clean state-dict keys, fresh weights. Candidates given as factories are built only
    when chosen.

    Args:
        arch: Architecture dict, as exported by an experiment or written by hand.

    Raises:
        SpaceError: From the constructor, when a label is missing or a value is not a candidate.

    Warns:
        UserWarning: Labels that no choice asked for, at the end of the context.
    """
    if not isinstance(arch, Mapping) or not all(isinstance(label, str) for label in arch):
        raise SpaceError(
            f"model_context got a {type(arch).__name__}; expected an architecture dict {{label: value}}, "
            "such as experiment.export_top_models(formatter='dict')[0]."
        )
    context = FreezeContext(arch)
    token = _context.set(context)
    try:
        yield
    finally:
        _context.reset(token)
    unused = [label for label in arch if label not in context.used]
    if unused:
        warnings.warn(
            f"no choice asked for these labels: {quoted(unused)}. What an evaluator decides is for "
            "evaluator.decided(arch).",
            UserWarning,
            stacklevel=3,
        )


def count_as_used(labels: Iterable[str]) -> None:
    """Count labels as asked for in `model_context`: they decide something else than the model."""
    context = _context.get()
    if context is not None:
        context.used.update(labels)


def replacing() -> Callable[[Any], Any] | None:
    """Return the function by which `copy_with` replaces primitives and values, or None outside it."""
    return _replace.get()


@contextmanager
def copy_with(replace: Callable[[Any], Any]) -> Iterator[None]:
    """Make `copy.deepcopy` put `replace(x)` in place of each primitive and value it meets.

    Deep copying already follows modules reached twice and references held in plain attributes, so freezing
    and relaxing are that one traversal with another treatment of choices.
    """
    token = _replace.set(replace)
    try:
        yield
    finally:
        _replace.reset(token)
