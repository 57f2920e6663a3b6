"""Evaluator by zero-cost proxies."""

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
    """An evaluator that scores an untrained model by one minibatch.

    | proxy | |
    |---|---|
    | `params`, `flops` | size, and operations for one sample |
    | `l2_norm`, `grad_norm` | norms of the weights and of their gradients |
    | `plain`, `snip`, `grasp`, `fisher`, `synflow` | importance of the weights in pruning methods, summed |
    | `jacob_cov`, `naswot` | how differently the model treats different samples |
    | `zen` | how strongly a network with random weights reacts to its input |

    Their authors rank models by them, largest first; `proxy_report` says how well they do so on a table of
    results. A value that does not exist or is not finite is NaN, which ranks last. The weights are used as
    they are, so they should be newly drawn; `zen` draws its own. The model runs in training mode, for
    `synflow` and `flops` in evaluation mode.

    A copy is scored: the model, its statistics and gradients, and torch's generators stay as they were.

    Args:
        proxies: Names of proxies; the first is also the metric "default".
        batch: Inputs (B, ...) and targets of one minibatch; moved to the device of the model.
        loss: Returns a number from the output and the targets.

    Raises:
        SpaceError: A proxy is unknown, or the batch is missing.

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
                    f"{name!r} is not a proxy; expected {quoted(PROXIES)}." + closest(name, PROXIES)
                )
        if not proxies:
            raise SpaceError(f"ZeroCost needs the name of a proxy, or several: {quoted(PROXIES)}.")
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
            model: Maps the inputs to the first argument of the loss.
            report: Called once with the metrics and 0.

        Raises:
            SpaceError: The loss does not return a number, or the model a tensor.
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
