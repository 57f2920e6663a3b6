"""Operation strength: the oracle, exactness for a linear loss, and what is derived from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from spacelang import Experiment, LayerChoice, ModelSpace, SpaceError, Supernet
from spacelang.strategies import DARTS, GDAS, OperationStrength
from spacelang.strategies.framework.strength import removal_changes, strength
from spacelang.testing import toy_spaces
from spacelang.testing.toy_evaluators import Fit, Regression

from ..toys.paths import rows, trainer


def test_oracle_of_one_edge() -> None:
    """out = sum_k w_k o_k, L = (out - y)^2 / 2 with w = (.2, .5, .3), o = (1, -2, 3), y = 1."""
    w = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64, requires_grad=True)
    o = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    (change,) = removal_changes(lambda: 0.5 * ((w * o).sum() - 1) ** 2, [w])
    assert change.tolist() == pytest.approx([0.18, -0.9, 0.81])  # the exact ones are .2, -.4, 1.215
    group = Supernet(Blend()).groups["layer"]
    assert strength(group, change[None], signed=False)[0].tolist() == pytest.approx([0.18, 0.9, 0.81])
    assert strength(group, change[None], signed=True)[0].argsort().tolist() == [1, 0, 2]


class Blend(ModelSpace):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.BatchNorm1d(3)
        self.layer = LayerChoice([nn.Linear(3, 1), nn.Linear(3, 1), nn.Linear(3, 1)], label="layer")

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.stem(x))


class Linear(Regression):
    """Loss that is linear in the mixture."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.model(batch[0]).mean()


def test_of_a_linear_loss_the_estimate_is_what_removal_does(tmp_path: Path) -> None:
    """The loss falls by the mean of w_k o_k; batches of unequal sizes count by their samples."""
    torch.manual_seed(0)
    supernet = Supernet(Blend())
    search = DARTS(derive="strength").attach(supernet)
    module = Linear(supernet)
    val: DataLoader[Any] = DataLoader([(torch.randn(size, 3),) for size in (4, 2)], batch_size=None)  # type: ignore[arg-type]
    trainer(tmp_path, search).fit(module, rows(1, 1), val)
    found, weights = search.ranking_tables()["layer"][0], search.probabilities()["layer"][0]
    stem, layers = supernet.network.stem.train(), supernet.network.layer.candidates
    with torch.no_grad():
        outputs = [torch.cat([layer(stem(x)) for (x,) in val]).mean() for layer in layers]
    lost = (weights * torch.stack(outputs)).abs()
    assert found.tolist() == pytest.approx(lost.tolist(), rel=1e-4)
    assert search.derive()[0]["layer"] == int(found.argmax())


def test_a_set_of_any_inputs_keeps_what_lowers_the_loss() -> None:
    group = Supernet(toy_spaces()["Inputs"]).groups["any"]
    table = strength(group, torch.tensor([[0.2, -0.1, 0.4]]), signed=False)
    assert table[0].tolist() == pytest.approx([0.75, 0.375, 1.0])


def test_strategies_that_run_one_candidate_are_refused() -> None:
    with pytest.raises(SpaceError, match=r"OperationStrength compares candidates .* and GDAS runs one"):
        GDAS(derive="strength").attach(Supernet(toy_spaces()["Layers"]))


@pytest.mark.slow
def test_a_search_leaves_weights_and_statistics_as_without_it(tmp_path: Path) -> None:
    plain, strong = (
        Experiment(toy_spaces()["Cells"], Fit(2), DARTS(derive=derive), directory=tmp_path / name)
        for name, derive in (("plain", "probabilities"), ("strong", OperationStrength()))
    )
    plain.run()
    strong.run()
    for name, value in plain.supernet.state_dict().items():
        assert torch.equal(value, strong.supernet.state_dict()[name])
