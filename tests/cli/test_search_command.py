"""`search`, `init`, `resume`, `retrain` and `export`: an experiment without a line of Python."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

from spacelang import Experiment
from spacelang.cli import main
from spacelang.cli.configuration import read_configuration
from spacelang.errors import SpaceError
from spacelang.files import load_yaml
from spacelang.results import read_onnx_architecture
from spacelang.strategies import StopOnSkips

Captured = pytest.CaptureFixture[str]

MODULE = '''
"""A space, and a measure: the sum of its choices. The file `interrupt` presses Ctrl-C at the third trial."""
from pathlib import Path
from torch import nn
from spacelang import LayerChoice, ModelSpace
from spacelang import nn as space_nn, value_choice

class Net(ModelSpace):
    def __init__(self, most: int = 4) -> None:
        super().__init__()
        self.a = space_nn.Linear(1, value_choice(list(range(1, most + 1)), label="a"))
        self.b = space_nn.Linear(1, value_choice(list(range(1, most + 1)), label="b"))

    def forward(self, x):
        return self.a(x).sum() + self.b(x).sum()

seen = []

def measure(model, weight: float = 10.0) -> float:
    seen.append(1)
    if len(seen) == 3 and Path("interrupt").exists():
        Path("interrupt").unlink()
        raise KeyboardInterrupt
    return weight * model.a.out_features + model.b.out_features

def evaluator(weight: float = 10.0):
    from spacelang.evaluators import Functional
    return Functional(measure, weight=weight)
'''
CONFIG = """
directory: run
seed: 3
space:
  class_path: {module}.Net
evaluator:
  class_path: {module}.evaluator
strategy: Random
max_trials: 6
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """Return a working folder with a module of its own and `c.yaml`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    module = f"own_{abs(hash(request.node.name))}"  # modules stay imported
    (tmp_path / f"{module}.py").write_text(MODULE)
    (tmp_path / "c.yaml").write_text(CONFIG.format(module=module))
    return tmp_path


def refusal(capsys: Captured, *words: str) -> str:
    """Run a command that must be refused; return its one line."""
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_search_by_trials(folder: Path, capsys: Captured) -> None:
    assert main(["search", "c.yaml", "--space.most", "3", "--evaluator.weight=100", "--max_trials", "4"]) == 0
    history = Experiment.load("run").history
    assert [trial.metrics["default"] for trial in history] == [
        100 * t.arch["a"] + t.arch["b"] for t in history
    ]
    assert len(history) == 4
    assert max(max(trial.arch.values()) for trial in history) <= 3
    assert "spacelang retrain run/architectures/1.yaml" in capsys.readouterr().out
    kept = load_yaml(folder / "run" / "config.yaml")
    assert (kept["seed"], kept["max_trials"], kept["space"]["init_args"]) == (3, 4, {"most": 3})
    assert read_configuration(folder / "run" / "config.yaml").values["max_trials"] == 4


def test_an_interrupted_search_is_resumed_to_the_same_end(folder: Path) -> None:
    assert main(["search", "c.yaml", "--directory", "whole"]) == 0
    module = next(folder.glob("own_*.py")).stem
    __import__(module).seen.clear()
    (folder / "interrupt").touch()
    assert main(["search", "c.yaml"]) == 130
    assert Experiment.load("run").status == "interrupted"
    assert main(["resume", "run"]) == 0
    whole, resumed = (Experiment.load(name).history for name in ("whole", "run"))
    assert [trial.arch for trial in resumed] == [trial.arch for trial in whole]
    assert [trial.metrics for trial in resumed] == [trial.metrics for trial in whole]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("search",), "spacelang init"),
        (("search", "none.yaml"), "cannot read 'none.yaml'"),
        (("search", "c.yaml", "--strategy", "Randm"), "Closest: 'Random'"),
        (("search", "c.yaml", "--strategy"), "needs the name of a class"),
        (("search", "c.yaml", "--space", "my.Net"), "No module named 'my'"),
        (("search", "c.yaml", "--space.mots", "3"), "Closest: 'space.most'"),
        (("search", "c.yaml", "--space.most", "x"), "space.most: Expected a int. Got value: x"),
        (("search", "c.yaml", "--max_trial", "3"), "Closest: 'max_trials'"),
        (("search", "c.yaml", "--objectives", "[val_acc]"), "'maximize metric'"),
        (("search", "c.yaml", "--limits", "[{metrik: params}]"), "{metric: params, at_most: 1e6}"),
        (("search", "c.yaml", "--data", "digits"), "takes no data"),
        (("search", "c.yaml", "--data", "split_half"), "are required: data.dataset"),
        (("resume", "."), "has no config.yaml"),
        (("retrain", "c.yaml"), "type --config"),
        (("retrain", "--config"), "name an architecture"),
        (("export", ".", "n.onnx"), "is no bundle"),
    ],
)
def test_bad_input_is_one_line(folder: Path, capsys: Captured, words: tuple[str, ...], told: str) -> None:
    assert told in refusal(capsys, *words)
    assert not (folder / "run").exists()


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("x = 1 / 0", "space: 'wrong' cannot be imported: ZeroDivisionError: division by zero ("),
        ("def (:", "space: 'wrong' cannot be imported: SyntaxError: invalid syntax (wrong.py, line 1)"),
        ("def Net():\n    return {}['width']", "space: Net cannot be made: KeyError: 'width' ("),
    ],
)
def test_an_error_in_code_of_the_user_is_one_line(
    folder: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch, code: str, told: str
) -> None:
    (folder / "wrong.py").write_text(code)
    monkeypatch.delitem(sys.modules, "wrong", raising=False)
    importlib.invalidate_caches()
    message = refusal(capsys, "search", "c.yaml", "--space", "wrong.Net")
    assert told in message
    assert "line " in message


def test_a_section_has_a_class(folder: Path) -> None:
    (folder / "bad.yaml").write_text("strategy:\n  init_args: {population: 3}\n")
    with pytest.raises(SpaceError, match="must have a `class_path:`"):
        read_configuration(folder / "bad.yaml")
    with pytest.raises(SpaceError, match="the configuration has no strategy"):
        read_configuration(None).target("strategy")


def test_a_used_folder_is_left_alone(folder: Path, capsys: Captured) -> None:
    (folder / "run").mkdir()
    (folder / "run" / "mine.txt").touch()
    assert "spacelang resume run" in refusal(capsys, "search", "c.yaml")
    assert [path.name for path in (folder / "run").iterdir()] == ["mine.txt"]


def test_another_class_begins_with_its_own_defaults(folder: Path) -> None:
    (folder / "e.yaml").write_text(
        "strategy:\n  class_path: RegularizedEvolution\n  init_args: {population: 7}\n"
    )
    evolution = read_configuration(folder / "e.yaml", ["--strategy.sample=2"]).make("strategy")
    assert (evolution.population, evolution.sample) == (7, 2)
    search = read_configuration(folder / "e.yaml", ["--strategy", "spacelang.strategies.LocalSearch"])
    assert type(search.make("strategy")).__name__ == "LocalSearch"


def test_classes_inside_of_classes(folder: Path) -> None:
    extras = "[{class_path: spacelang.strategies.StopOnSkips, init_args: {most: 3}}]"
    (folder / "d.yaml").write_text(f"strategy:\n  class_path: DARTS\n  init_args:\n    extras: {extras}\n")
    strategy = read_configuration(folder / "d.yaml").make("strategy")
    assert strategy.extras == (StopOnSkips(most=3),)


def test_help_lists_the_arguments_of_the_classes(folder: Path, capsys: Captured) -> None:
    assert main(["search", "c.yaml", "--help"]) == 0
    assert "--space.init_args.most" in capsys.readouterr().out
    assert main(["search", "--strategy.help", "RegularizedEvolution"]) == 0
    shown = capsys.readouterr().out
    assert "Size P of the population" in shown
    assert "--space" not in shown


def test_init_writes_once(folder: Path, capsys: Captured) -> None:
    assert main(["init"]) == 0
    assert main(["init", "t.yaml", "--trials"]) == 0
    assert read_configuration(folder / "search.yaml").make("strategy").learning_rate == 0.003
    assert read_configuration(folder / "t.yaml").targets["executor"].__name__ == "ProcessPool"
    capsys.readouterr()
    assert "exists" in refusal(capsys, "init")


@pytest.mark.slow
def test_search_retrain_and_export_without_python(folder: Path, capsys: Captured) -> None:
    assert main(["init"]) == 0
    few = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1"]
    assert main(["search", "search.yaml", *few, "--space.width=4", "--space.num_cells=1"]) == 0
    assert main(["retrain", "run/architectures/1.yaml", "--space.width=6"]) == 0
    assert main(["export", "run/retrained-1/network", "n.onnx"]) == 0
    assert read_onnx_architecture("n.onnx") == load_yaml(folder / "run" / "architectures" / "1.yaml")
    record = load_yaml(folder / "run" / "retrained-1" / "network" / "architecture.yaml")
    assert record["space"]["arguments"]["width"] == 6
    assert record["metadata"]["input_shape"] == [1, 8, 8]
    assert set(record["metadata"]["metrics"]) == {"test_loss", "test_acc"}
    capsys.readouterr()
    assert "already holds files" in refusal(capsys, "retrain", "run/architectures/1.yaml")


def test_the_files_in_the_guide_are_read(tmp_path: Path) -> None:
    page = Path(__file__).parent.parent.parent / "docs" / "command_line.md"
    blocks = re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    for number, block in enumerate(blocks):
        (tmp_path / f"{number}.yaml").write_text(block)
    whole, extras = (read_configuration(tmp_path / f"{number}.yaml") for number in range(len(blocks)))
    assert set(whole.targets) == {"space", "data", "evaluator", "strategy", "executor"}
    assert whole.values["objectives"] == ["maximize val_acc", "minimize params"]
    assert extras.make("strategy").extras == (StopOnSkips(most=2),)
