"""The monitor: the largest eigenvalue against closed forms, and that watching changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spacelang import Experiment, InputChoice, LayerChoice, ModelSpace, SpaceError, Supernet
from spacelang.strategies import (
    DARTS,
    Extra,
    Monitor,
    OperationDropout,
    RandomOneShot,
    SkipDropout,
    StopOnEigenvalue,
)
from spacelang.strategies.framework import largest_eigenvalue
from spacelang.testing import toy_spaces
from spacelang.testing.toy_evaluators import Fit

from ..toys.search_script import outcome
from .test_search import Regression, TwoSlopes, loader, quiet_trainer


def quadratic(eigenvalues: list[float]) -> Tensor:
    """A symmetric matrix with these eigenvalues."""
    torch.manual_seed(1)
    q, _ = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), dtype=torch.float64))
    return q @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ q.T


@pytest.mark.parametrize(
    ("eigenvalues", "largest"),
    [([5.0, 2, 1, -1, 0.5, 0], 5), ([-4.0, 3, 1, 0, 0, 0], 3), ([-1.0] * 6, 0), ([0.0] * 6, 0)],
)
def test_of_a_quadratic(eigenvalues: list[float], largest: float) -> None:
    hessian = quadratic(eigenvalues)
    a, b, unused = (nn.Parameter(torch.randn(n, dtype=torch.float64)) for n in (2, 4, 3))
    x = torch.cat([a, b])
    loss = 0.5 * x @ hessian @ x + x.sum()
    found = largest_eigenvalue(loss, [a, unused, b], tolerance=1e-6)
    assert found == pytest.approx(largest, abs=1e-8)


def test_of_a_linear_loss() -> None:
    a = nn.Parameter(torch.randn(3))
    assert largest_eigenvalue(a.sum(), [a]) == 0


def test_in_a_search_against_the_closed_form(tmp_path: Path) -> None:
    """L_val = ((p0 + 2 p1) w x - t)^2 with x = 3, t = 2; the module's training loss is the same function."""
    supernet = Supernet(TwoSlopes())
    search = DARTS(learning_rate=0.1, extras=(Monitor(eigenvalue=True, every=2),)).attach(supernet)
    module = Regression(supernet)
    trainer = quiet_trainer(tmp_path, search, max_epochs=3)
    trainer.fit(module, loader([1.0], 1.0), loader([3.0], 2.0))
    assert [len(search.records[name]) for name in ("eigenvalue", "skip_ratio/layers")] == [2, 3]
    w = supernet.network.weight.weight.item()

    def loss(alpha: Tensor) -> Tensor:
        p = alpha.softmax(dim=0)
        return ((p[0] + 2 * p[1]) * w * 3 - 2) ** 2

    hessian = torch.autograd.functional.hessian(loss, search.parameters.logits["layer"].detach()[0])
    eigenvalues = torch.linalg.eigvalsh(hessian)
    assert search.records["eigenvalue"][-1] == pytest.approx(eigenvalues.max().item(), rel=1e-4)
    assert search.records["skip_ratio/layers"][-1] == float(search.derive()[0]["layer"] == "once")
    assert not supernet.groups["layer"].weights.requires_grad


@pytest.mark.slow
def test_watching_changes_nothing(tmp_path: Path) -> None:
    """Not even batch-norm statistics and what two kinds of dropout draw."""
    random = (SkipDropout(0.5), OperationDropout((0.3, 0.3)))

    def searched(name: str, *extras: Extra) -> Any:
        strategy = DARTS(learning_rate=0.01, extras=(*extras, *random))
        experiment = Experiment(toy_spaces()["Cells"], Fit(3), strategy, directory=tmp_path / name)
        experiment.run()
        return experiment

    plain, watched = searched("plain"), searched("watched", Monitor(eigenvalue=True))
    records = watched.search.records
    assert set(records) == {"eigenvalue", "skip_ratio/normal", "skip_ratio/other"}
    skips = [v for label, v in watched.best.items() if label.startswith("normal/op")].count("skip_connect")
    assert records["skip_ratio/normal"][-1] == skips / 4
    assert all(abs(value) > 0 for value in records["eigenvalue"])
    watched.search.records = {}
    assert outcome(watched) == outcome(plain)


class NoSkips(ModelSpace):
    def __init__(self) -> None:
        super().__init__()
        self.inputs = InputChoice(2, label="inputs")
        self.layer = LayerChoice([nn.ReLU(), nn.Tanh()], label="layer")


def test_refusals() -> None:
    supernet = Supernet(NoSkips())
    with pytest.raises(SpaceError, match="no operation of this space is one"):
        DARTS(extras=(Monitor(),)).attach(supernet)
    DARTS(extras=(Monitor(eigenvalue=True),)).attach(supernet)
    with pytest.raises(SpaceError, match="Monitor reads the probabilities"):
        RandomOneShot(extras=(Monitor(eigenvalue=True),)).attach(supernet)
    with pytest.raises(SpaceError, match="StopOnEigenvalue records the eigenvalue already"):
        DARTS(extras=(Monitor(eigenvalue=True), StopOnEigenvalue())).attach(supernet)
    with pytest.raises(SpaceError, match="every=0"):
        Monitor(every=0)
