"""Networks for tables."""

from __future__ import annotations

from .mlp import MLP as MLP
