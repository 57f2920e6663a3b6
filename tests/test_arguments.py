"""Misspelt and foreign arguments and attributes: the nearest name, or the place where that setting lives."""

from __future__ import annotations

import copy
import inspect
import pydoc

import pytest
from lightning.pytorch import Trainer
from torch import nn

import spacelang
from spacelang import Cell, Experiment, LayerChoice, ModelSpace, SpaceError, evaluators, hub, strategies
from spacelang.arguments import PLACES, SYNONYMS, ArgumentError
from spacelang.doors import exports
from spacelang.evaluators import Classification, Functional
from spacelang.experiment import TrialSettings
from spacelang.strategies import DARTS, RegularizedEvolution


class Net(ModelSpace):
    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.layer = LayerChoice([nn.Linear(2, width), nn.Identity()], label="layer")


EVALUATOR = "the evaluator, such as Classification"
CALLS = [
    (DARTS, {"lr": 1}, "DARTS takes no argument 'lr'; write learning_rate=."),
    (
        DARTS,
        {"gradient_clip_val": 5.0},
        f"DARTS takes no argument 'gradient_clip_val'; pass it to {EVALUATOR}.",
    ),
    (DARTS, {"precison": 16}, f"DARTS takes no argument 'precison'; pass precision= to {EVALUATOR}."),
    (DARTS, {"epochs": 3}, f"DARTS takes no argument 'epochs'; pass max_epochs= to {EVALUATOR}."),
    (Classification, {"gpus": 1}, "Classification takes no argument 'gpus'; write devices=."),
    (Classification, {"lr": 1}, "Classification takes no argument 'lr'; write learning_rate=."),
    (
        Classification,
        {"max_epoch": 1},
        "Classification takes no argument 'max_epoch'. Closest: 'max_epochs'.",
    ),
    (
        Classification,
        {"max_trials": 1},
        "Classification takes no argument 'max_trials'; pass it to Experiment.",
    ),
    (Experiment, {"epochs": 3}, f"Experiment takes no argument 'epochs'; pass max_epochs= to {EVALUATOR}."),
    (
        Experiment,
        {"order": 2},
        "Experiment takes no argument 'order'; it is a setting of the strategy: DARTS(order=...).",
    ),
    (Experiment, {"budget": 3}, "Experiment takes no argument 'budget'; write max_trials=."),
    (
        RegularizedEvolution,
        {"max_trials": 10},
        "RegularizedEvolution takes no argument 'max_trials'; pass it to Experiment.",
    ),
    (
        RegularizedEvolution,
        {"popultion": 10},
        "RegularizedEvolution takes no argument 'popultion'; it takes 'population', 'sample', "
        "'mutation_prob', 'crossover'. Closest: 'population'.",
    ),
    (
        Cell,
        {"nodes": 4},
        "Cell takes no argument 'nodes'; it takes 'op_candidates', 'num_nodes', 'num_ops_per_node', "
        "'num_predecessors', 'merge_op', 'preprocessor', 'postprocessor', 'concat_dim', 'label', "
        "'distinct_inputs', 'projection', 'node_postprocessor'. Closest: 'num_nodes'.",
    ),
    (
        LayerChoice,
        {"lable": "x"},
        "LayerChoice takes no argument 'lable'; it takes 'candidates', 'label', 'prior'. Closest: 'label'.",
    ),
    (Net, {"widht": 4}, "Net takes no argument 'widht'; it takes 'width'. Closest: 'width'."),
    (
        spacelang.draw,
        {"pth": "cell.svg"},
        "draw takes no argument 'pth'; it takes 'subject', 'path', 'space', 'merge_op', 'layout'. "
        "Closest: 'path'.",
    ),
    (
        spacelang.profile,
        {"example_input": None},
        "profile takes no argument 'example_input'; it takes 'model', 'example_inputs', 'latency', "
        "'repeats'. Closest: 'example_inputs'.",
    ),
    (TrialSettings, {"n_trials": 10}, "TrialSettings takes no argument 'n_trials'; write max_trials=."),
]


@pytest.mark.parametrize(("called", "arguments", "message"), CALLS, ids=lambda x: getattr(x, "__name__", ""))
def test_unknown_arguments(called: type, arguments: dict[str, object], message: str) -> None:
    needed = (Net(), Functional(len), DARTS()) if called is Experiment else ()
    with pytest.raises(ArgumentError) as caught:
        called(*needed, **arguments)
    assert str(caught.value) == message
    assert isinstance(caught.value, SpaceError)
    assert isinstance(caught.value, TypeError)
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_every_unknown_argument_is_named() -> None:
    with pytest.raises(ArgumentError, match=r"'lr'; write learning_rate=\.\nDARTS takes no argument 'seed'"):
        DARTS(lr=1, seed=2)


def test_other_type_errors_stay_as_they_are() -> None:
    class Broken(ModelSpace):
        def __init__(self, width: int = 2) -> None:
            super().__init__()
            len(width)  # type: ignore[arg-type]

    with pytest.raises(TypeError, match="object of type 'int' has no len") as caught:
        Broken(width=3)
    assert not isinstance(caught.value, SpaceError)
    with pytest.raises(TypeError, match="missing"):
        LayerChoice(label="x")  # type: ignore[call-arg]


def test_signatures_are_those_of_the_constructors() -> None:
    for known in (DARTS, Classification, Experiment, RegularizedEvolution, Cell):
        own = list(inspect.signature(known.__init__).parameters)[1:]
        assert list(inspect.signature(known).parameters) == own
    assert "class RegularizedEvolution(" in pydoc.plaintext.document(RegularizedEvolution)
    assert "population: 'int' = 100" in pydoc.plaintext.document(RegularizedEvolution)
    assert copy.deepcopy(RegularizedEvolution(sample=3)) == RegularizedEvolution(sample=3)


def test_the_places_have_the_arguments() -> None:
    evaluator, experiment, loader = PLACES
    settings = {
        *inspect.signature(Trainer.__init__).parameters,
        *inspect.signature(Classification).parameters,
    }
    assert set(PLACES[evaluator]) < settings
    own = set(inspect.signature(Experiment).parameters)
    assert set(PLACES[experiment]) < own | set(inspect.signature(TrialSettings).parameters)
    assert set(PLACES[loader]) < set(inspect.signature(evaluators.DataLoader.__init__).parameters)
    placed = {name for names in PLACES.values() for name in names}
    assert set(SYNONYMS.values()) <= placed
    assert not placed & set(SYNONYMS)


@pytest.mark.parametrize(
    ("package", "name", "words"),
    [
        (spacelang, "layerchoice", ". Closest: 'LayerChoice'."),
        (spacelang, "DARTS", "; it is in spacelang.strategies and spacelang.hub"),
        (spacelang, "Classification", "; it is in spacelang.evaluators"),
        (spacelang, "Clasification", ". Closest: 'spacelang.evaluators.Classification'."),
        (spacelang, "CostLimit", "; it is in spacelang.costs"),
        (spacelang, "cli", "; it is a module of its own: `import spacelang.cli`"),
        (strategies, "DART", ". Closest: 'DARTS'."),
        (strategies, "NASNet", "; it is in spacelang.hub"),
        (strategies, "rate_at", "; it is in spacelang.strategies.framework"),
        (hub, "Darts", ". Closest: 'DARTS'."),
        (evaluators, "Clasification", ". Closest: 'Classification'."),
        (evaluators, "__wrapped__", ""),
    ],
)
def test_misspelt_attributes(package: object, name: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(package, name, raising=False)  # a module that was imported before
    with pytest.raises(AttributeError) as caught:
        getattr(package, name)
    assert str(caught.value) == f"module {package.__name__!r} has no attribute {name!r}{words}"


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("from spacelang import DARTS", "'DARTS'; it is in spacelang.strategies and spacelang.hub"),
        ("from spacelang.hub import SGAS", "'SGAS'; it is in spacelang.strategies"),
        ("from spacelang.strategies import (\n  SGAS, \n  DART)", "'DART'. Closest: 'DARTS'."),
    ],
)
def test_imports_from_the_wrong_place(statement: str, words: str) -> None:
    with pytest.raises(ImportError) as caught:
        exec(statement)
    assert str(caught.value).endswith(f"has no attribute {words}")
    assert not hasattr(spacelang, "DARTS")


@pytest.mark.parametrize("package", [spacelang, strategies, hub, evaluators], ids=lambda p: p.__name__)
def test_a_door_names_each_export_once(package: object) -> None:
    names = package.__all__
    assert sorted(exports(package.__name__).keys() - {"nn", "data"}) == names  # modules stay out
    assert len(set(names)) == len(names)
    assert set(names) <= set(dir(package))
    for name in names:
        assert getattr(package, name) is not None
    text = inspect.getsource(package).partition('"""\n')[2]
    assert [name for name in names if text.count(f" {name} as {name}\n") != 1] == []
