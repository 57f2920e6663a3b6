"""Readers of published benchmark tables: each returns columns for `spacelang.evaluators.Tabular`.

No reader needs the project that made the file, and none runs code from it.
"""

from __future__ import annotations

from .hardware_rows import read_hw_nas_bench as read_hw_nas_bench
from .nasbench101_rows import read_nasbench101 as read_nasbench101
from .nasbench201_rows import read_nasbench201 as read_nasbench201
from .nds_rows import read_nds as read_nds
