"""FairDARTS as the example writes it: the numbers of section 10, and the promises of every strategy."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from spacelang import Supernet
from spacelang.hub import DARTS as DartsSpace
from spacelang.hub import FairDARTS as FairDartsSpace
from spacelang.strategies import Penalty
from spacelang.testing import check_strategy, toy_spaces

pytestmark = pytest.mark.slow

Load = Callable[[str], ModuleType]
OPERATIONS = [
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
]


def table_10a() -> Tensor:
    """alpha[e, k] = 2 sin(1 + e + 4k + 3ek) + .3 of 14 edges and 7 operations."""
    e, k = torch.arange(14.0).double()[:, None], torch.arange(7.0).double()
    return 2 * torch.sin(1 + e + 4 * k + 3 * e * k) + 0.3


def test_it_needs_no_private_name(repository: Path) -> None:
    tree = ast.parse((repository / "examples" / "own_strategy.py").read_text())
    imported = [
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for name in (*(node.module or "").split("."), *(alias.name for alias in node.names))
    ]
    used = [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    assert not [n for n in (*imported, *used) if n.startswith("_") and not n.startswith("__")]


def test_the_zero_one_loss(example: Load) -> None:
    zero_one = example("own_strategy").zero_one
    alpha = torch.tensor([[2, -1.5, 0.3, 4]], dtype=torch.float64, requires_grad=True)
    loss = zero_one([alpha])
    assert loss.item() == pytest.approx(-0.12093474, abs=5e-9)
    (gradient,) = torch.autograd.grad(loss, alpha)
    expected = [-0.01999063, 0.02368255, -0.00909905, -0.00425683]
    assert gradient[0].tolist() == pytest.approx(expected, abs=5e-9)
    assert zero_one([table_10a(), table_10a()]).item() == pytest.approx(-0.0868217976, abs=5e-11)


def test_both_steps_follow_it(example: Load) -> None:
    strategy = example("own_strategy").FairDARTS(init_scale=1.0)
    search = strategy.attach(Supernet(toy_spaces()["Cells"]))
    term = 10 * example("own_strategy").zero_one(search.parameters.logits.values())
    for phase in ("logits", "weights"):
        loss = strategy.objective(torch.tensor(2.0), search, phase)
        assert loss.item() == pytest.approx(2 + term.item())


def test_derivation_by_a_threshold(example: Load) -> None:
    """Oracle 10a."""
    supernet = Supernet(FairDartsSpace(2, 3, (1, 8, 10)))
    edges = [(source, node) for node in range(2, 6) for source in range(node)]
    tables = {}
    for row, (source, node) in zip(table_10a().sigmoid(), edges, strict=True):
        for kind in ("normal", "reduce"):
            columns = list(supernet.groups[f"{kind}/{source}_{node}"].columns)
            table = torch.full((1, len(columns)), 0.5, dtype=torch.float64)
            table[0, [columns.index(name) for name in OPERATIONS]] = row
            tables[f"{kind}/{source}_{node}"] = table
    strategy = example("own_strategy").FairDARTS(threshold=0.85)
    (arch,) = strategy.architectures(supernet, tables, 1)
    kept = {label: name for label, name in arch.items() if label.startswith("normal") and name != "none"}
    assert kept == {
        "normal/0_2": "max_pool_3x3",
        "normal/1_2": "max_pool_3x3",
        "normal/0_3": "sep_conv_3x3",
        "normal/2_3": "avg_pool_3x3",
        "normal/2_4": "avg_pool_3x3",
        "normal/3_4": "sep_conv_5x5",
        "normal/0_5": "dil_conv_3x3",
        "normal/2_5": "dil_conv_5x5",
    }


def test_it_keeps_the_promises_of_every_strategy(example: Load) -> None:
    strategy = example("own_strategy").FairDARTS(learning_rate=0.05)
    result = check_strategy(strategy)
    assert set(result.searched) == set(toy_spaces()) - {"ListedInputs"}


@pytest.mark.parametrize("init_scale", [0.0, 1.0, 10.0])
def test_its_expectation_never_exceeds_the_largest_network(example: Load, init_scale: float) -> None:
    """The sigmoids of an edge add up to more than one, so they are not the probabilities of a slot."""
    strategy, penalty = example("own_strategy").FairDARTS(init_scale=init_scale), Penalty("params", 1e4)
    search = strategy.attach(Supernet(DartsSpace(4, 3, (1, 8, 10), num_nodes=2)), seed=1)
    cost, arch = penalty.cost(search.supernet), search.derive()[0]
    largest = cost.of({x: "sep_conv_5x5" if "/op_" in x else value for x, value in arch.items()})
    smallest = cost.of({x: "max_pool_3x3" if "/op_" in x else value for x, value in arch.items()})
    expected = penalty.expected(search).item()
    assert smallest <= expected <= largest
    sigmoids = cost(search.probabilities()).item()  # read as if they were a distribution
    assert sigmoids > expected
    if init_scale == 10:
        assert sigmoids > largest
    if init_scale == 0:  # uniform: the mean over sampled cells
        uniform = {label: torch.full_like(t, 1 / t.shape[1]) for label, t in search.probabilities().items()}
        assert expected == pytest.approx(cost(uniform).item())


def test_it_runs(example: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example("own_strategy").main(["--directory", str(tmp_path / "run"), "--epochs", "1"])
    assert "edge normal/0_2: " in capsys.readouterr().out
