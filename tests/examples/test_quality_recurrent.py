"""The benchmark of recurrent cells runs in its smallest form."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from types import ModuleType

import pytest

from spacelang.hub import from_recurrent_genotype

pytestmark = pytest.mark.slow


def test_found_and_random_cells_are_trained_alike(
    benchmark_script: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = benchmark_script("quality_recurrent")
    sizes = {"--characters": 1600, "--search-epochs": 1, "--epochs": 1, "--seeds": 1, "--random": 2}
    arguments = [word for name, number in sizes.items() for word in (name, str(number))]
    monkeypatch.setattr(sys, "argv", ["quality_recurrent.py", *arguments])
    module.main()
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split("|")[1:-1] for line in lines if line.startswith("|")][2:]
    assert [name.strip() for name, *_ in rows] == [
        "random cells (2)",
        "DARTS, order 1 (1)",
        "DARTS, order 2 (1)",
    ]
    assert all(math.isfinite(float(mean.split()[0])) for _, mean, _ in rows)
    genotypes = [line.strip() for line in lines if line.startswith("  Genotype")]
    assert [len(from_recurrent_genotype(text)) for text in genotypes] == [6, 6]
