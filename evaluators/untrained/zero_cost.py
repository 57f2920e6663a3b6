"""Zero-cost proxies as an evaluator."""

from __future__ import annotations

import itertools
import math
from copy import deepcopy

import torch
from torch import Tensor, nn

from spacelang.arguments import KnownArguments
from spacelang.errors import SpaceError, closest, quoted, short
from spacelang.randomness import torch_generators_kept
from spacelang.trials import Reporter

from .proxies import PROXIES, Loss


class ZeroCost(KnownArguments):
    """Score an untrained model by what one minibatch does in it.

    | proxy | |
    |---|---|
    | `params`, `flops` | size, and operations for one sample |
    | `l2_norm`, `grad_norm` | norms of the weights and of their gradients |
    | `plain`, `snip`, `grasp`, `fisher`, `synflow` | what pruning methods say of the weights, summed |
    | `jacob_cov`, `naswot` | how differently the model treats different samples |

    Their authors rank models by them, most first. A value that does not exist or is not finite is NaN, which
    ranks last. The weights are taken as they are, so they should be newly drawn. The model runs in training
    mode, for `synflow` and `flops` in evaluation mode.

    A copy is scored: the model, its statistics and gradients, and torch's generators stay as they were.

    Args:
        proxies: names; the first is also the metric "default".
        batch: inputs (B, ...) and targets of one minibatch; taken to the device of the model.
        loss: a number from the output and the targets.

    Raises:
        SpaceError: an unknown proxy; no batch.

    >>> batch = torch.ones(2, 3), torch.tensor([0, 1])
    >>> ZeroCost("params", batch=batch).evaluate(nn.Linear(3, 2))
    {'default': 8.0, 'params': 8.0}
    """

    def __init__(
        self, *proxies: str, batch: tuple[Tensor, Tensor], loss: Loss = nn.functional.cross_entropy
    ) -> None:
        for name in proxies:
            if name not in PROXIES:
                raise SpaceError(
                    f"{name!r} is no proxy; expected {quoted(PROXIES)}." + closest(name, PROXIES)
                )
        if not proxies:
            raise SpaceError(f"ZeroCost takes the name of a proxy, or several: {quoted(PROXIES)}.")
        if not (isinstance(batch, tuple | list) and len(batch) == 2 and all(map(torch.is_tensor, batch))):
            raise SpaceError(
                "batch holds the inputs and the targets of one minibatch, such as next(iter(loader)); "
                f"got {short(batch)}."
            )
        self.proxies = proxies
        self.batch = (batch[0], batch[1])
        self.loss = loss

    def evaluate(self, model: nn.Module, report: Reporter | None = None) -> dict[str, float]:
        """Return the value of each proxy.

        Args:
            model: maps the inputs to what the loss takes.
            report: called once with the metrics and 0.

        Raises:
            SpaceError: the loss gives no number, or the model no tensor.
        """
        device = next((t.device for t in itertools.chain(model.parameters(), model.buffers())), None)
        x, y = (tensor.to(device) for tensor in self.batch)
        values = {name: self._value(name, model, x, y) for name in self.proxies}
        metrics = {"default": values[self.proxies[0]], **values}
        if report is not None:
            report(metrics, 0)
        return metrics

    def _value(self, name: str, model: nn.Module, x: Tensor, y: Tensor) -> float:
        with torch_generators_kept(x.device), torch.enable_grad():
            value = float(PROXIES[name](deepcopy(model).train(), x, y, self.loss))
        return value if math.isfinite(value) else math.nan
