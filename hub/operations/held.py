"""Decisions that a module of one's own takes in several places."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from spacelang.language import Decision, Primitive, Relaxer


class Held(Primitive):
    """Decisions of a module around it; a primitive of its own, because they exist under its condition."""

    def __init__(self, *decisions: Decision) -> None:
        super().__init__()
        self.held = decisions

    def decisions(self) -> tuple[Decision, ...]:
        return self.held

    def reads(self) -> tuple[Decision, ...]:
        """Return nothing: it has no part that a decision changes, so that it costs nothing."""
        return ()

    def freeze(self, arch: Mapping[str, Any]) -> nn.Module:
        return nn.Identity()

    def relax(self, builder: Relaxer) -> nn.Module:
        return nn.Identity()
