"""Spaces of benchmarks, small enough that every architecture could be trained."""

from __future__ import annotations

from .digits_cells import DigitsCells as DigitsCells
from .nasbench101 import NASBench101 as NASBench101
from .nasbench201 import NASBench201 as NASBench201
from .staged_cells import StagedCells as StagedCells
