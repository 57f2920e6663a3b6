"""The softmax relaxation: closed forms and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from spacelang import Cell, InputChoice, LayerChoice, ModelSpace, Supernet
from spacelang.strategies import Softmax


class Space(ModelSpace):
    def __init__(self) -> None:
        super().__init__()
        self.cell = Cell({"a": nn.Identity(), "b": nn.ReLU()}, 1, 2, 2, label="cell")
        self.layer = LayerChoice([nn.Identity(), nn.ReLU(), nn.Tanh()], label="layer")
        self.two = InputChoice(3, 2, label="two")
        self.any = InputChoice(3, None, label="any")


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    return Supernet(Space())


def test_shapes(supernet: Supernet) -> None:
    shapes = {label: Softmax().shape(group) for label, group in supernet.groups.items()}
    assert shapes == {"any": (1, 3), "cell": (2, 3), "layer": (1, 3), "two": (1, 3)}
    assert Softmax(none=False).shape(supernet.groups["cell"]) == (2, 2)


def test_mixtures_are_the_closed_forms(supernet: Supernet) -> None:
    logits = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64)
    exp = logits.exp()[0].tolist()
    total = sum(exp)
    softmax = [x / total for x in exp]
    groups = supernet.groups

    def weights(label: str, logits: torch.Tensor) -> torch.Tensor:
        return Softmax().mixture(groups[label], logits).weights

    assert weights("layer", logits)[0].tolist() == pytest.approx(softmax)
    assert weights("two", logits)[0].tolist() == pytest.approx([2 * p for p in softmax])
    sigmoid = [x / (1 + x) for x in exp]
    assert weights("any", logits)[0].tolist() == pytest.approx(sigmoid)
    rows = logits.expand(2, 3)
    assert weights("cell", rows)[0].tolist() == pytest.approx(softmax[1:])
    without_none = Softmax(none=False).mixture(groups["cell"], rows[:, 1:]).weights
    assert without_none[0].sum().item() == pytest.approx(1)


def test_the_logit_for_none_has_a_gradient(supernet: Supernet) -> None:
    logits = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    mixture = Softmax().mixture(supernet.groups["cell"], logits).weights
    (gradient,) = torch.autograd.grad(mixture.sum(), logits)
    # The sum of the kept weights is 1 - p_none, and d p_none / d alpha_none = p (1 - p) with p = 1/3.
    assert gradient[:, 0].tolist() == pytest.approx([-2 / 9, -2 / 9])


def test_rows_of_a_distribution_sum_to_one(supernet: Supernet) -> None:
    """None is never derived: the others divide its share in proportion. Inputs of any set have no sum."""
    logits = {label: torch.randn(Softmax().shape(group)) for label, group in supernet.groups.items()}
    tables = {label: Softmax().distribution(group, logits[label]) for label, group in supernet.groups.items()}
    for label in ("cell", "layer", "two"):
        assert tables[label].sum(dim=1).tolist() == pytest.approx([1.0] * len(tables[label]))
    assert torch.allclose(tables["cell"], logits["cell"][:, 1:].softmax(dim=1))
    assert torch.equal(tables["any"], logits["any"].sigmoid())


def test_pruned_rows_have_no_distribution() -> None:
    pruned = Supernet(Space())
    pruned.prune({"cell": [[False, False], [False, True]], "layer": [[True, False, True]]})
    cell = Softmax().distribution(pruned.groups["cell"], torch.zeros(2, 3))
    layer = Softmax().distribution(pruned.groups["layer"], torch.zeros(1, 3))
    assert cell.tolist() == [[0, 0], [0, 1]]
    assert layer[0].tolist() == pytest.approx([0.5, 0, 0.5])
