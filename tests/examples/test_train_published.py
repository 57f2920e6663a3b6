"""The training of published cells runs on small files of the form of PPI and Penn Treebank."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytestmark = pytest.mark.slow

Load = Callable[[str], ModuleType]


def run(benchmark_script: Load, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    module = benchmark_script("train_published")
    monkeypatch.setattr(sys, "argv", ["train_published.py", *words, "--width", "4", "--epochs", "2"])
    module.main()


def test_ppi(
    benchmark_script: Load,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rng = np.random.default_rng(0)
    for part in ("train", "valid", "test"):
        links = [{"source": 0, "target": 1}, {"source": 2, "target": 3}]
        (tmp_path / f"{part}_graph.json").write_text(json.dumps({"links": links}))
        np.save(tmp_path / f"{part}_feats.npy", rng.normal(size=(4, 5)))
        np.save(tmp_path / f"{part}_labels.npy", rng.integers(2, size=(4, 3)))
        np.save(tmp_path / f"{part}_graph_id.npy", np.array([1, 1, 2, 2]))
    run(benchmark_script, monkeypatch, "ppi", str(tmp_path))
    told = dict(word.split() for word in capsys.readouterr().out.strip().splitlines()[-1].split(", "))
    assert 0 <= float(told["test_f1"]) <= 1


def test_penn_treebank(
    benchmark_script: Load,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for part, lines in (("train", 130), ("valid", 20), ("test", 5)):
        (tmp_path / f"ptb.{part}.txt").write_text("the cat is <unk>\n" * lines)
    run(benchmark_script, monkeypatch, "ptb", str(tmp_path))
    told = dict(word.split() for word in capsys.readouterr().out.strip().splitlines()[-1].split(", "))
    assert math.isfinite(float(told["test_perplexity"]))
