"""GAEA against its oracles: exponentiated steps, edges, entropy, and its form of GDAS."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from spacelang import Cell, LayerChoice, ModelSpace, Supernet
from spacelang.strategies import GAEA, GAEAGDAS, GAEAPCDARTS, Moment
from spacelang.strategies.framework import ArchitectureParameters
from spacelang.strategies.one_shot.gaea import entropic_distance, falling, normalised
from spacelang.testing import toy_spaces


class Small(ModelSpace):
    """Four layers to choose from, and a cell with nodes of two and three edges."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = LayerChoice([nn.Identity() for _ in range(4)], label="layer")
        self.cell = Cell({"a": nn.Identity(), "b": nn.Tanh()}, 2, 2, 2, label="cell")


def stepped(strategy: GAEA, gradients: dict[str, Tensor]) -> tuple[ArchitectureParameters, Supernet]:
    """Return logits after a step from where they begin."""
    supernet = Supernet(Small())
    relaxation = strategy.relaxation
    parameters = ArchitectureParameters(
        supernet,
        relaxation,
        init_scale=0.0,
        generator=torch.Generator(),
        make_optimizer=strategy.make_optimizer,
    )
    for p in parameters.logits.values():
        p.data = p.data.double()
    before = {label: p.detach().clone() for label, p in parameters.logits.items()}
    parameters.step([gradients.get(label) for label in parameters.logits])
    for label, p in parameters.logits.items():
        p.data = relaxation.settled(supernet.groups[label], before[label], p.data)
    return parameters, supernet


def test_oracle_14a_of_a_row() -> None:
    gradient = torch.tensor([[0.8, -0.4, 0.1, 0]], dtype=torch.float64)
    parameters, _ = stepped(GAEA(), {"layer": gradient})
    expected = [0.2334652824, 0.2632313709, 0.2503934255, 0.2529099212]
    assert parameters.logits["layer"][0].tolist() == pytest.approx(expected, abs=5e-11)
    assert torch.allclose(parameters.logits["cell"], torch.full((5, 2), 0.5, dtype=torch.float64))


def test_oracle_14a_of_edges() -> None:
    """Edge weights 1/2, 1/2 and 1/3 three times, g = (.5, -.5 | 1, 0, -2)."""
    gradient = torch.zeros(5, 4, dtype=torch.float64)  # none, two operations, the edge
    gradient[:, -1] = torch.tensor([0.5, -0.5, 1, 0, -2])
    parameters, supernet = stepped(GAEAPCDARTS(partial=1), {"cell": gradient})
    table, relaxation = parameters.logits["cell"], GAEAPCDARTS().relaxation
    expected = [0.4750208125, 0.5249791875, 0.2894331104, 0.3198730563, 0.3906938333]
    assert table[:, -1].tolist() == pytest.approx(expected, abs=5e-11)
    shares = relaxation.edge_shares(supernet.groups["cell"], table)
    assert torch.equal(shares, table[:, -1])  # type: ignore[arg-type]
    ranked = relaxation.probabilities(supernet.groups["cell"], table)
    assert torch.allclose(ranked, table[:, -1:] / 3)  # theta is one third each, none left out


def test_oracle_14b() -> None:
    theta = torch.tensor([[0.7, 0.1, 0.15, 0.05]], dtype=torch.float64, requires_grad=True)
    distance = entropic_distance(theta)
    assert distance.item() == pytest.approx(0.4720087797, abs=5e-11)
    (gradient,) = torch.autograd.grad(distance, theta)
    expected = [2.0296194172, 0.0837092681, 0.4891743762, -0.6094379124]
    assert gradient[0].tolist() == pytest.approx(expected, abs=5e-11)
    tiny = torch.tensor([[0.9999, 5e-6, 5e-6, 9e-5]], dtype=torch.float64)
    assert normalised(tiny, tiny > 0, clamp_first=True)[0].tolist() == pytest.approx(
        [0.9999 / 1.00001, 1e-5 / 1.00001, 1e-5 / 1.00001, 9e-5 / 1.00001], rel=1e-12
    )
    assert normalised(tiny, tiny > 0, clamp_first=False).sum() > 1
    taus = [falling(epoch, 250, 50) for epoch in (0, 50, 51, 149, 249)]
    assert taus == pytest.approx([10, 10, 9.9602409639, 6.0638554217, 2.0879518072], abs=5e-11)


def test_sets_of_any_inputs_step_on_a_simplex_of_their_own() -> None:
    supernet = Supernet(toy_spaces()["Inputs"])
    group, relaxation = supernet.groups["any"], GAEA().relaxation
    first = relaxation.initial(group, 0.0, torch.Generator())
    moved = first * torch.exp(torch.tensor([[-0.1, 0.0, 0.2]]))
    expected = [0.47502081, 0.5, 0.54983400]  # 1 / (1 + e^{-x})
    assert relaxation.settled(group, first, moved)[0].tolist() == pytest.approx(expected, abs=5e-7)


def test_the_form_of_gdas_runs_one_candidate_and_takes_the_gradient_of_its_sample() -> None:
    supernet = Supernet(Small())
    theta = torch.tensor([[0.4, 0.3, 0.2, 0.1]], dtype=torch.float64, requires_grad=True)
    relaxation = GAEAGDAS().relaxation
    moment = Moment(0, 250, torch.Generator().manual_seed(0))
    mixture = relaxation.mixture(supernet.groups["layer"], theta, moment)
    (chosen,) = [k for k, active in enumerate(mixture.active[0]) if active]  # type: ignore[index]
    assert mixture.weights[0].tolist() == pytest.approx([float(k == chosen) for k in range(4)])
    (gradient,) = torch.autograd.grad(mixture.weights[0, chosen], theta)
    assert gradient[0, chosen] > 0
    assert (gradient * theta).sum().item() == pytest.approx(0, abs=1e-12)  # a softmax of logarithms


def test_the_step_may_adapt_to_the_largest_gradient() -> None:
    """eta / .8: theta exp(-.1 g / .8), normalised; without any gradient theta stays."""
    gradient = torch.tensor([[0.8, -0.4, 0.1, 0]], dtype=torch.float64)
    parameters, _ = stepped(GAEA(adapt_lr=True), {"layer": gradient, "cell": torch.zeros(5, 2).double()})
    expected = torch.exp(-0.1 * gradient / 0.8)[0]
    expected = expected / expected.sum()
    assert parameters.logits["layer"][0].tolist() == pytest.approx(expected.tolist(), abs=1e-12)
    assert torch.allclose(parameters.logits["cell"], torch.full((5, 2), 0.5, dtype=torch.float64))
