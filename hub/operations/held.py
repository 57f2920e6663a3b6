"""Decisions that a module of one's own takes in several places."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from spacelang.language import Decision, Primitive, Relaxer


class Held(Primitive):
    """One decision of a module around it; a primitive of its own, because it exists under a condition."""

    def __init__(self, decision: Decision) -> None:
        super().__init__()
        self.decision = decision

    def decisions(self) -> tuple[Decision, ...]:
        return (self.decision,)

    def freeze(self, arch: Mapping[str, Any]) -> nn.Module:
        return nn.Identity()

    def relax(self, builder: Relaxer) -> nn.Module:
        return nn.Identity()
