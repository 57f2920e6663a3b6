"""What some decisions of a space depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spacelang.language import Categorical


@dataclass(frozen=True)
class OneOf:
    """A decision takes one of the `accepted` values; false while it is not taken."""

    decision: Categorical
    accepted: tuple[Any, ...]

    @property
    def labels(self) -> frozenset[str]:
        """The label it depends on."""
        return frozenset([self.decision.label])

    def holds(self, arch: Mapping[str, Any]) -> bool:
        """Whether it is true of `arch`."""
        return self.decision.label in arch and self.decision.parse(arch[self.decision.label]) in self.accepted

    def __str__(self) -> str:
        return f"{self.decision.label} in {list(self.accepted)!r}"
