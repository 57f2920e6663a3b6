"""The quality benchmark: its numbers against ones worked out by hand, and a run with two tiny strategies."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from spacelang import SpaceError
from spacelang.hub import DigitsCells

Load = Callable[[str], ModuleType]


@pytest.fixture
def numbers(benchmark_script: Load) -> ModuleType:
    return benchmark_script("quality_numbers")


def test_an_interval_is_that_of_students_t(numbers: ModuleType) -> None:
    """1, 2, 3: deviation 1, and t = 4.302653 for two degrees of freedom."""
    mean, half = numbers.interval([1.0, 2.0, 3.0])
    assert (mean, half) == (2.0, pytest.approx(4.302653 / 3**0.5, rel=1e-6))
    mean, half = numbers.interval([5.0, 6.0])
    assert mean == 5.5
    assert math.isnan(half)
    assert numbers.shown(5.0, math.nan) == "5.0"
    assert numbers.shown(2.0, 1.04) == "2.0 ± 1.0"


def test_the_best_of_k_draws(numbers: ModuleType) -> None:
    """Three trainings; the best in validation is not the best in the test."""
    pool = [(0.5, 50.0), (0.9, 80.0), (0.7, 90.0)]
    assert numbers.best_of(pool, 1) == pytest.approx((50 + 80 + 90) / 3)
    # Of two draws the best is 0.5 with probability 1/9, 0.7 with 3/9, and 0.9 with 5/9.
    assert numbers.best_of(pool, 2) == pytest.approx((50 + 3 * 90 + 5 * 80) / 9)
    assert numbers.best_of(pool, 1000) == pytest.approx(80)


def test_equal_validations_are_equally_likely(numbers: ModuleType) -> None:
    pool = [(0.5, 10.0), (0.9, 80.0), (0.9, 60.0)]
    assert numbers.best_of(pool, 2) == pytest.approx((1 * 10 + 8 * 70) / 9)


def test_a_pool_of_one_value_has_no_spread(numbers: ModuleType) -> None:
    assert numbers.bootstrap([(0.5, 10.0)] * 4, lambda pool: numbers.best_of(pool, 3), draws=5) == 0
    half = numbers.bootstrap([(0.0, 0.0), (1.0, 1.0)], lambda pool: numbers.best_of(pool, 1), draws=200)
    assert half == 0.5  # both the same in half of all draws


def test_results_are_kept(numbers: ModuleType, tmp_path: Path) -> None:
    log = numbers.Log(tmp_path / "runs.jsonl", ("task", "seed"))
    log.add({"task": "digits", "seed": 0, "value": 0.5})
    again = numbers.Log(tmp_path / "runs.jsonl", ("task", "seed"))
    assert again.runs == [{"task": "digits", "seed": 0, "value": 0.5}]
    assert again.has(task="digits", seed=0)
    assert not again.has(task="digits", seed=1)


def test_a_table_goes_between_its_markers(numbers: ModuleType) -> None:
    page = "before\n<!-- quality: digits -->\n\nold\n\n<!-- end of digits -->\nafter\n"
    new = numbers.replaced(page, "digits", numbers.markdown(("a", "b"), [("x", "1")]))
    table = "| a | b |\n| --- | ---: |\n| x | 1 |"
    assert new == f"before\n<!-- quality: digits -->\n\n{table}\n\n<!-- end of digits -->\nafter\n"
    assert numbers.replaced(new, "digits", "old") == page
    with pytest.raises(ValueError, match="no lines '<!-- quality: text -->'"):
        numbers.replaced(page, "text", "new")


def test_the_published_page_has_the_markers(benchmark_script: Load, numbers: ModuleType) -> None:
    page = benchmark_script("quality_numbers").PAGE.read_text()
    for name in (*benchmark_script("quality_tasks").TASKS, *benchmark_script("quality_skips").TASKS):
        numbers.replaced(page, name, "table")


def run(module: ModuleType, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys) -> str:
    """Run a benchmark and return what it prints."""
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)  # other tests go on as they were
    monkeypatch.setattr(sys, "argv", [str(module.__file__), *arguments])
    module.main()
    return str(capsys.readouterr().out)


@pytest.mark.slow
def test_two_strategies_and_a_second_call(
    benchmark_script: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    module = benchmark_script("quality")
    monkeypatch.setattr(module, "SEARCH_EPOCHS", 1)
    monkeypatch.setattr(module, "TRIALS", 3)
    monkeypatch.setattr(module, "DRAWS", 1)
    page = tmp_path / "page.md"
    page.write_text("<!-- quality: digits -->\n<!-- end of digits -->\n")
    arguments = ["--directory", str(tmp_path / "runs"), "--tasks", "digits", "--seeds", "1"]
    arguments += ["--page", str(page), "--strategies", "GDAS", "Random"]
    run(module, arguments, monkeypatch, capsys)
    lines = (tmp_path / "runs" / "runs.jsonl").read_text().splitlines()
    runs = [json.loads(line) for line in lines]
    assert [found["strategy"] for found in runs] == ["random architectures", "GDAS", "Random"]
    with DigitsCells.table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    means = {}
    for found in runs[1:]:
        arch = json.dumps(DigitsCells().canonical(found["arch"]), sort_keys=True)
        tests = [100 * float(row["test_acc"]) for row in rows if row["arch"] == arch]
        means[found["strategy"]] = f"{sum(tests) / 3:.1f}"
    monkeypatch.setattr(module.Bench, "measure", lambda *args: pytest.fail("it was done"))
    again = run(module, [*arguments, "--table"], monkeypatch, capsys)
    for name, mean in means.items():
        assert f"| {name} (1) | {mean} |" in again
    assert "| one random architecture (825) | 70.8 ± 1.1 |" in page.read_text()


def test_every_method_against_skips_can_be_made(benchmark_script: Load) -> None:
    assert [make().stages for make in benchmark_script("quality_skips").METHODS.values()] == [1] * 10


@pytest.mark.exhaustive
def test_one_search_of_the_skips(
    benchmark_script: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    module = benchmark_script("quality_skips")
    monkeypatch.setattr(module, "EPOCHS", 1)
    monkeypatch.setattr(module, "TRAININGS", 1)
    arguments = ["--directory", str(tmp_path), "--spaces", "S2", "--methods", "DARTS", "--seeds", "1"]
    run(module, arguments, monkeypatch, capsys)
    chance, found = (json.loads(line) for line in (tmp_path / "skips.jsonl").read_text().splitlines())
    assert (chance["eigenvalue"], found["epochs"]) == (None, 1)
    assert found["skips"] == sum(value == "skip_connect" for value in found["arch"].values())
    assert f"| DARTS (1) | {found['skips']} |" in run(module, arguments, monkeypatch, capsys)


@pytest.mark.slow
def test_strategies_refuse_the_text_before_training(benchmark_script: Load) -> None:
    """Partial channels are made of two-dimensional convolutions only."""
    module = benchmark_script("quality")
    space = benchmark_script("quality_tasks").TASKS["text"].make()
    assert space.size() == 825
    refusing = set()
    for name, make in module.WITH_SUPERNET.items():
        strategy = make()
        try:
            strategy.check(strategy.supernet(space))
        except SpaceError:
            refusing.add(name)
    assert refusing == {"PCDARTS", "GAEAPCDARTS"}
