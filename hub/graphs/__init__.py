"""Networks on graphs and on points: the spaces of SGAS."""

from __future__ import annotations

from .sgas_cells import GraphCells as GraphCells
