"""SMASH: who makes the weights, where gradients go, what is compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from spacelang import Experiment, SpaceError, Supernet
from spacelang.strategies import SMASH
from spacelang.strategies.one_shot.smash import HyperNetwork, HyperSupernet
from spacelang.testing import check_strategy, toy_spaces
from spacelang.testing.toy_evaluators import Fit, example_batch

from ..toys.trials import Chain


def supernet(name: str = "Everything") -> HyperSupernet:
    torch.manual_seed(0)
    return HyperSupernet(toy_spaces()[name], SMASH()).double()


def other(net: Supernet) -> Any:
    return net.decision_space.sample(np.random.default_rng(3))


def test_made_weights_by_hand() -> None:
    """w = C leaky_relu(A e + B z) in two pieces, each filter scaled to the length sqrt(2)."""
    torch.manual_seed(0)
    sizes = SMASH(hidden=3, code=2, noise=0, piece=4)
    made = HyperNetwork(2, {"w": torch.Size([2, 3, 1, 1])}, sizes).double()
    encoding = torch.tensor([1.0, 0.0]).double()
    rows = []
    for code in made.codes:
        hidden = made.input.weight[:, 0] + made.input.bias + made.mix.weight @ code
        rows.append(made.output.weight @ torch.where(hidden > 0, hidden, 0.02 * hidden) + made.output.bias)
    numbers = torch.cat(rows)[:6].view(2, 3)  # of eight
    expected = numbers / numbers.square().sum(1, keepdim=True).sqrt() * 2**0.5
    torch.testing.assert_close(made(encoding)["w"].view(2, 3), expected)


def test_gradients_reach_the_hypernetwork_and_what_is_not_chosen() -> None:
    net = supernet().train()
    arch = net.decision_space.default()
    net.select(arch)
    net(example_batch()).square().sum().backward()
    made = set(net.network.hypernetwork.shapes)
    assert any("stem" in name for name in made)
    assert not any(name.startswith("head") for name in made)
    with_gradient = {name for name, p in net.network.named_parameters() if p.grad is not None}
    assert not made & with_gradient
    assert {name for name in with_gradient if "hypernetwork" in name} == {
        f"hypernetwork.{name}" for name, _ in net.network.hypernetwork.named_parameters()
    }
    assert "head.2.weight" in with_gradient


def test_the_gradient_of_a_linear_hypernetwork_is_an_outer_product() -> None:
    """dL/dC = sum over pieces of dL/dw_s outer h_s."""
    torch.manual_seed(0)
    sizes = SMASH(hidden=3, code=2, noise=0, piece=4)
    made = HyperNetwork(2, {"w": torch.Size([2, 4])}, sizes).double()
    encoding = torch.tensor([0.0, 1.0]).double()
    hidden = nn.functional.leaky_relu(made.input(encoding) + made.mix(made.codes), 0.02)  # (2, 3)
    numbers = made.output(hidden).detach().requires_grad_()
    weight = 2**0.5 * nn.functional.normalize(numbers)
    (slope,) = torch.autograd.grad(weight.sin().sum(), numbers)
    made(encoding)["w"].sin().sum().backward()
    torch.testing.assert_close(made.output.weight.grad, slope.T @ hidden.detach())


def test_each_architecture_has_weights_of_its_own() -> None:
    net = supernet().eval()
    first, second = net.made(net.decision_space.default()), net.made(other(net))
    assert all(not torch.equal(first[name], second[name]) for name in first)
    norms = torch.cat([weight.flatten(1).norm(dim=1) for weight in first.values()])
    torch.testing.assert_close(norms, torch.full_like(norms, 2**0.5))


def test_noise_in_training_alone() -> None:
    net, x = supernet().eval(), example_batch()
    assert torch.equal(net(x), net(x))
    net.train()
    assert not torch.equal(
        *(net.made(net.decision_space.default())["stem.candidates.0.1.weight"] for _ in "ab")
    )


def test_a_frozen_model_has_the_made_weights_and_no_hypernetwork() -> None:
    net = supernet().eval()
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    arch = other(net)
    model = net.freeze(arch).eval()
    net.select(arch)
    torch.testing.assert_close(model(example_batch()), net(example_batch()), rtol=0, atol=1e-12)
    assert not any("hypernetwork" in name for name, _ in model.named_parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())


def test_widths_are_slices_of_made_weights() -> None:
    net = supernet("Values").eval()
    arch = {"width": 2, "size": 1}
    net.select(arch)
    made = net.made(arch)["conv.largest.weight"]
    assert torch.equal(net.freeze(arch).conv.weight, made[:2, :, 1:2, 1:2])


def test_the_comparison() -> None:
    """4 random ones, 3 perturbations of the best of them, then a chain that moves to whatever is better."""
    space = Chain(6).decision_space
    measured: list[Any] = []

    def measure(arch: Any, batches: int | None = None) -> float:
        measured.append(arch)
        return float(len(measured) % 3)

    strategy = SMASH(candidates=4, perturbations=3, chain=5, perturbation_probability=0.2)
    ranking = strategy.rank(space, measure, np.random.default_rng(0))
    assert len(measured) == len(ranking) == strategy.measurements == 12
    assert len({repr(arch) for arch in measured}) == 12
    assert [value for value, _ in ranking] == sorted(value for value, _ in ranking)


def test_given_weights_that_are_not_used_are_named(tmp_path: Path) -> None:
    """Those of layers that are chosen; nothing is said of a search that begins anew."""
    space = toy_spaces()["Cells"]
    with torch.no_grad():
        next(space.parameters()).zero_()
    strategy = SMASH(candidates=2, perturbations=0, chain=0)
    kept = Experiment(space, Fit(1), strategy, directory=tmp_path / "given", weights="given")
    with pytest.warns(UserWarning, match="those given with the space are not used: 'cell"):
        kept.run()
    Experiment(space, Fit(1), strategy, directory=tmp_path / "fresh", weights="fresh").run()


def test_a_space_without_weights_to_make_is_refused(tmp_path: Any) -> None:
    with pytest.raises(SpaceError, match="Inputs has none"):
        SMASH().supernet(toy_spaces()["Inputs"])


@pytest.mark.slow
def test_it_keeps_the_promises() -> None:
    strategy = SMASH(candidates=4, perturbations=2, chain=2, calibration_batches=1)
    assert "Cells" in check_strategy(strategy, epochs=2).searched
