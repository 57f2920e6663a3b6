"""Rewards that trade the quality of an architecture for its cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

from torch import Tensor

from spacelang.costs import Metric, expected_cost
from spacelang.errors import require_number, require_one_of
from spacelang.language import Architecture
from spacelang.supernet import Supernet

_FORMS = ("absolute", "power", "above")


@dataclass(frozen=True, eq=False)
class CostReward:
    """Worth of an architecture of quality q and cost c, by which path strategies compare.

    | form | worth |
    |---|---|
    | "absolute" | q + weight * abs(c / target - 1) |
    | "power" | q * (c / target)^weight |
    | "above" | q * max(c / target, 1)^weight |

    The first is that of TuNAS, the others are the soft and, with weight=-1, the hard one of MnasNet. The
    quality is the strategy's metric, or exp(-loss) where it has none.

    Args:
        metric: "params", "flops", or a latency table, whose unit is then that of `target`.
        target: Cost to reach.
        form: Name from the table.
        weight: Weight or exponent, below 0.
        example_inputs: A tensor, or a tuple of positional arguments of the forward; FLOPs need them, and are
            for the whole batch.

    Source: TuNAS, arXiv:2008.06120, section 4; MnasNet, arXiv:1807.11626, eq. 2 and 3.
    """

    metric: Metric
    target: float
    _: KW_ONLY
    form: Literal["absolute", "power", "above"] = "absolute"
    weight: float = -0.07
    example_inputs: Tensor | tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        require_number("target", self.target, above=0)
        require_number("weight", self.weight, below=0)
        require_one_of("form", self.form, _FORMS)

    def worth(self, quality: float, cost: float) -> float:
        """Return the number of the table."""
        ratio = cost / self.target
        if self.form == "absolute":
            return quality + self.weight * abs(ratio - 1)
        base = ratio if self.form == "power" else max(ratio, 1.0)
        return float(quality * base**self.weight)

    def cost(self, supernet: Supernet) -> Callable[[Architecture], float]:
        """Return a function from an architecture to its exact cost."""
        return expected_cost(supernet, self.metric, self.example_inputs).of
