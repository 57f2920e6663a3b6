"""The benchmarks of recurrent cells and of graph cells run in their smallest forms."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from types import ModuleType

import pytest

from spacelang.hub import from_recurrent_genotype

pytestmark = pytest.mark.slow


@pytest.fixture
def printed(
    benchmark_script: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., list[str]]:
    """Run a benchmark with these options, and return the lines that it prints."""

    def run(name: str, **options: object) -> list[str]:
        words = [str(word) for key, x in options.items() for word in (f"--{key.replace('_', '-')}", x)]
        module = benchmark_script(name)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *words])
        module.main()
        return capsys.readouterr().out.splitlines()

    return run


def rows_of(lines: list[str]) -> dict[str, float]:
    """Return the mean of each row of a table."""
    cells = [line.split("|")[1:-1] for line in lines if line.startswith("|")][2:]
    return {name.strip(): float(mean.split()[0]) for name, mean, _ in cells}


@pytest.mark.parametrize("graph", ["karate", pytest.param("digits", marks=pytest.mark.exhaustive)])
def test_cells_of_a_graph(printed: Callable[..., list[str]], graph: str) -> None:
    options = {"steps": 1, "epochs": 1, "trainings": 1, "seeds": 1, "random": 2}
    rows = rows_of(printed("quality_graph", graph=graph, **options))
    assert list(rows) == ["random cells (2)", "SGAS (1)"]
    assert all(0 <= mean <= 100 for mean in rows.values())


def test_recurrent_cells(printed: Callable[..., list[str]]) -> None:
    lines = printed("quality_recurrent", characters=1600, search_epochs=1, epochs=1, seeds=1, random=2)
    rows = rows_of(lines)
    assert list(rows) == ["random cells (2)", "DARTS, order 1 (1)", "DARTS, order 2 (1)"]
    assert all(math.isfinite(mean) for mean in rows.values())
    genotypes = [line.strip() for line in lines if line.startswith("  Genotype")]
    assert [len(from_recurrent_genotype(text)) for text in genotypes] == [6, 6]
