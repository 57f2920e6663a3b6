"""SDARTS against its oracles: projection, the size of perturbations, and the adversary."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from spacelang import LayerChoice, ModelSpace, SpaceError, Supernet
from spacelang.strategies import SDARTS, Moment
from spacelang.strategies.one_shot.sdarts import attack, clipped, eps_at


class Three(ModelSpace):
    def __init__(self) -> None:
        super().__init__()
        self.layer = LayerChoice([nn.Identity() for _ in range(3)], label="layer")


def moment(epoch: int, phase: str = "weights") -> Moment:
    return Moment(epoch, 50, torch.Generator().manual_seed(0), phase)  # type: ignore[arg-type]


def test_oracle_of_the_size() -> None:
    sizes = [eps_at((0.03, 0.3), moment(epoch)) for epoch in (0, 1, 25, 49)]
    assert sizes == pytest.approx([0.03, 0.0354, 0.165, 0.2946], abs=1e-12)
    assert eps_at(0.1, moment(7)) == 0.1


def test_oracle_17a() -> None:
    p = torch.tensor([[0.5, 0.3, 0.15, 0.05]], dtype=torch.float64)
    delta = torch.tensor([[0.1, -0.35, 0.02, -0.2]], dtype=torch.float64)
    expected = [0.7792207792, 0, 0.2207792208, 0]
    assert clipped(p + delta)[0].tolist() == pytest.approx(expected, abs=5e-11)
    empty = torch.tensor([[0.1, 0.2, 0.7]]) + torch.tensor([[-0.3, -0.3, -0.9]])
    assert clipped(empty)[0].tolist() == [0, 1, 0]


def test_oracle_17b() -> None:
    """L = c.p + (s.p)^2 / 2 from p0 = (.5, .3, .2) with eps = .06, seven steps without a random start."""
    c = torch.tensor([0.4, -0.2, 0.1], dtype=torch.float64)
    s = torch.tensor([1, -1, 0.5], dtype=torch.float64)

    def loss(tables: Mapping[str, Tensor]) -> Tensor:
        p = tables["layer"][0]
        return c @ p + 0.5 * (s @ p) ** 2

    groups = Supernet(Three()).groups
    p0 = {"layer": torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64)}
    found = attack(loss, p0, groups, eps=0.06, steps=7, generator=None)
    expected = [0.5166403010, 0.2320126552, 0.2513470435]
    assert found["layer"][0].tolist() == pytest.approx(expected, abs=5e-10)
    assert loss(p0).item() == pytest.approx(0.205, abs=1e-12)
    assert loss(found).item() == pytest.approx(0.2695618175, abs=5e-10)


def test_an_attack_that_lowers_the_loss_is_not_used() -> None:
    groups, p0 = Supernet(Three()).groups, {"layer": torch.tensor([[0.5, 0.3, 0.2]])}

    def loss(tables: Mapping[str, Tensor]) -> Tensor:
        """Steepest upwards at p0, and lower wherever else."""
        moved = (tables["layer"] - p0["layer"]).abs().sum()
        return -moved + 0 * tables["layer"].sum()

    found = attack(loss, p0, groups, eps=0.06, steps=2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found["layer"], p0["layer"])


def test_weights_are_trained_with_perturbed_mixtures_and_logits_with_plain_ones() -> None:
    group, relaxation = Supernet(Three()).groups["layer"], SDARTS().relaxation
    alpha = torch.tensor([[0.3, 0.1, -0.2]], dtype=torch.float64)
    plain = relaxation.mixture(group, alpha, moment(10, "logits")).weights
    assert torch.equal(plain, alpha.softmax(dim=1))
    perturbed = relaxation.mixture(group, alpha, moment(10)).weights
    draws = torch.rand((1, 3), generator=torch.Generator().manual_seed(0))
    assert torch.equal(perturbed, clipped(plain + (0.084 * (2 * draws - 1)).double()))


@pytest.mark.parametrize("settings", [{"perturbation": "both"}, {"eps": (0.03, 2.0)}, {"steps": 0}])
def test_bad_settings_are_named(settings: dict[str, object]) -> None:
    (name,) = settings
    with pytest.raises(SpaceError, match=f"{name}="):
        SDARTS(**settings)  # type: ignore[arg-type]
