"""Tables of probabilities for the tests of costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from spacelang import Supernet

Tables: TypeAlias = dict[str, Tensor]


def one_hot(supernet: Supernet, arch: Mapping[str, Any]) -> Tables:
    """How often an architecture uses each entry of every table; inactive groups choose nothing."""
    supernet.select(arch)
    tables = {
        label: torch.zeros(group.shape, dtype=torch.float64) for label, group in supernet.groups.items()
    }
    for label, group in supernet.groups.items():
        for r, row in enumerate(group.active):
            for k in row:
                tables[label][r, k] += 1
    return tables
