"""DARTS-: the decay, the auxiliary skip, and that no architecture has one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from spacelang import Cell, Experiment, ModelSpace, SpaceError
from spacelang.hub import DARTS as DartsSpace
from spacelang.strategies import DARTSMinus
from spacelang.strategies.one_shot.dartsminus import AuxiliaryCell, auxiliary_weight
from spacelang.testing import toy_spaces
from spacelang.testing.toy_evaluators import Fit


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ("linear", {0: 1, 10: 0.8, 25: 0.5, 40: 0.2, 49: 0.02}),
        ("cosine", {0: 1, 10: 0.9045085, 25: 0.5, 40: 0.0954915, 49: 0.0009866}),
        ("slow_cosine", {0: 1, 10: 0.9510565, 25: 0.7071068, 40: 0.3090170}),
        ("none", {0: 1, 49: 1}),
    ],
)
def test_oracle_of_the_decay(decay: str, expected: dict[int, float]) -> None:
    found = {epoch: auxiliary_weight(decay, epoch, 50) for epoch in expected}  # type: ignore[arg-type]
    assert found == pytest.approx(expected, abs=5e-8)


def test_after_its_stop_the_weight_stays() -> None:
    assert [auxiliary_weight("linear", epoch, 50, stop=25) for epoch in (24, 25, 49)] == [0.52, 0.5, 0.5]
    assert auxiliary_weight("linear", 10, 50, scale=2.0, shorten=10) == 2.0  # 2 * 40 / 40


class OneEdge(ModelSpace):
    """Operations 0, x and 3x on the one edge of a cell."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = Cell({"zero": Times(0), "skip": nn.Identity(), "triple": Times(3)}, 1, label="cell")

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(x)


class Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def test_oracle_11a() -> None:
    """x = 2, operations (0, x, 3x), alpha (.1, .4, -.2), beta .6."""
    supernet = DARTSMinus().supernet(OneEdge())
    alpha = torch.tensor([[0.1, 0.4, -0.2]], dtype=torch.float64)
    supernet.set_mixture({"cell": alpha.softmax(dim=1)})
    supernet.network.cell.beta = 0.6
    x = torch.full((1, 1), 2.0, dtype=torch.float64)
    assert supernet(x).item() == pytest.approx(3.5116705091, abs=5e-11)
    supernet.select({"cell/op_1_0": "triple", "cell/input_1_0": 0})
    assert supernet(x).item() == 6  # no auxiliary skip


def test_halved_maps_have_auxiliaries_with_weights_of_their_own() -> None:
    supernet = DARTSMinus().supernet(DartsSpace(2, 3, (1, 8, 10), num_nodes=2))
    cells = [cell for cell in supernet.modules() if isinstance(cell, AuxiliaryCell)]
    for cell in cells:
        for row, auxiliary in enumerate(cell.auxiliaries):
            own, skip = list(auxiliary.parameters()), list(cell.edges[row][2].parameters())
            assert [p.shape for p in own] == [p.shape for p in skip]
            assert not any(torch.equal(a, b) for a, b in zip(own, skip, strict=True))
    assert {isinstance(a, nn.Identity) for cell in cells for a in cell.auxiliaries} == {True, False}


def test_a_learned_auxiliary_begins_as_the_identity() -> None:
    space, x = DartsSpace(2, 3, (1, 8, 10), num_nodes=2), torch.randn(2, 1, 8, 8)
    skip, conv = (DARTSMinus(auxiliary=kind).supernet(space) for kind in ("skip", "conv"))  # type: ignore[arg-type]
    own = {name: value for name, value in conv.state_dict().items() if name not in skip.state_dict()}
    conv.load_state_dict(skip.state_dict() | own)
    convs, outputs = 0, []
    for supernet in (skip, conv):
        for cell in (c for c in supernet.modules() if isinstance(c, AuxiliaryCell)):
            cell.beta = 0.7
            for auxiliary in cell.auxiliaries:
                convs += isinstance(auxiliary, nn.Conv2d)
        outputs.append(supernet(x))
    assert convs
    assert torch.allclose(*outputs, atol=1e-5)
    with pytest.raises(SpaceError, match="none of its candidates is a convolution"):
        DARTSMinus(auxiliary="conv").supernet(OneEdge())


def test_a_search_sets_the_weight_of_each_epoch(tmp_path: Path) -> None:
    strategy = DARTSMinus(decay="cosine")
    experiment = Experiment(toy_spaces()["Cells"], Fit(2), strategy, directory=tmp_path / "run")
    experiment.run()
    assert experiment.search.records["auxiliary_weight"] == [1.0, 0.5]
    cells = [cell for cell in experiment.supernet.modules() if isinstance(cell, AuxiliaryCell)]
    assert {cell.beta for cell in cells} == {0.5}


def test_a_space_without_cells_is_named_and_so_is_an_unknown_decay() -> None:
    strategy = DARTSMinus()
    (sentence,) = strategy.unused_features(strategy.supernet(toy_spaces()["Layers"]))
    assert "this space has none" in sentence
    with pytest.raises(SpaceError, match="decay='square'"):
        DARTSMinus(decay="square")  # type: ignore[arg-type]
