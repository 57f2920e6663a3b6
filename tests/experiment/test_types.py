"""What an experiment takes, to a type checker and at run time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
from torch import nn

from spacelang import Experiment, LayerChoice, ModelSpace, SpaceError
from spacelang.evaluators import Functional
from spacelang.trials import History

ROOT = Path(__file__).parents[2]
SNIPPET = """
from spacelang import Experiment, ModelSpace
from evaluators import Classification, Functional, Tabular, ZeroCost
from strategies import DARTS
from strategies.multi_trial import Random

def search(space: ModelSpace, table: Tabular, proxy: ZeroCost) -> None:
    Experiment(space, Classification(), DARTS())
    Experiment(space, Functional(len), Random())
    Experiment(space, table, Random())
    Experiment(space, proxy, Random())
    Experiment(space, DARTS(), Classification())
    Experiment(space, Random(), Functional(len))
"""


@pytest.mark.slow
def test_a_type_checker_sees_swapped_arguments(tmp_path: Path) -> None:
    snippet = tmp_path / "snippet.py"
    snippet.write_text(SNIPPET)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(snippet)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        check=False,
    )
    wrong = {int(line.split(":")[1]) for line in done.stdout.splitlines() if "arg-type" in line}
    assert wrong == {12, 13}, done.stdout + done.stderr


def test_neither_argument_is_any() -> None:
    hints = get_type_hints(Experiment.__init__, localns={"pandas": Any, "optuna": Any})
    assert Any not in (hints["evaluator"], hints["strategy"])


class Net(ModelSpace):
    def __init__(self) -> None:
        super().__init__()
        self.layer = LayerChoice([nn.Identity(), nn.ReLU()], label="layer")


class Plain:
    """A strategy that forgets what it should return."""

    def start(self, space: ModelSpace) -> Plain:
        return self

    def ask(self, history: History, rng: np.random.Generator) -> Any:
        return {"layer": 0}


def test_a_strategy_that_returns_a_dict(tmp_path: Path) -> None:
    experiment = Experiment(
        Net(), Functional(lambda model: {"value": 1.0}), Plain(), directory=tmp_path / "run", max_trials=1
    )
    with pytest.raises(SpaceError, match=r"Plain.ask returned an architecture dict; expected a Proposal"):
        experiment.run()
