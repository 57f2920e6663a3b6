"""Second-order DARTS against oracles 1b and 1c, and that nothing is left changed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spacelang import SpaceError, Supernet
from spacelang.hub import DARTS as DartsSpace
from spacelang.strategies import DARTS
from spacelang.strategies.framework import SecondOrder, Step
from spacelang.strategies.framework.update import forward_over_reverse, reverse_over_reverse, sgd_settings
from spacelang.supernet import edge_by_edge

XI, MU, WD = 0.025, 0.9, 3e-4
A = torch.tensor([[2, 0.5], [0.5, 1]], dtype=torch.float64)
B = torch.tensor([[1, -0.5], [0.25, 2]], dtype=torch.float64)
T = torch.tensor([1, 0.5], dtype=torch.float64)


class Weights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.3, -0.7], dtype=torch.float64))


def unrolled(
    alpha: list[float],
    losses: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    hvp: Any = "finite",
    clip: float | None = None,
) -> tuple[Tensor, Weights]:
    """Gradient of the logits with the weight optimiser of the oracles."""
    module = Weights()
    optimizer = torch.optim.SGD([module.w], lr=XI, momentum=MU, weight_decay=WD)
    optimizer.state[module.w]["momentum_buffer"] = torch.tensor([0.05, -0.02], dtype=torch.float64)
    logits = nn.Parameter(torch.tensor(alpha, dtype=torch.float64))
    step = Step(
        [logits],
        lambda: losses(module.w, logits)[0],
        lambda: losses(module.w, logits)[1],
        module,
        [optimizer],
    )
    (gradient,) = SecondOrder(hvp, clip).gradients(step)
    return gradient, module


def bilinear(w: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    train = 0.5 * w @ A @ w - alpha @ B @ w
    return train, 0.5 * (w - T).square().sum() + 0.05 * alpha.square().sum()


def nonlinear(w: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    p = alpha.softmax(0)

    def net(x: Tensor) -> Tensor:
        return p[0] * (w[0] * x).tanh().sum() + p[1] * (w[1] * x).sum() + p[2] * x.sum()

    x = torch.tensor([1, -2, 0.5], dtype=torch.float64)
    xv = torch.tensor([0.2, 1, -1], dtype=torch.float64)
    return (net(x) - 0.7) ** 2, (net(xv) + 0.3) ** 2


@pytest.mark.parametrize("hvp", ["finite", "exact"])
def test_oracle_1b(hvp: str) -> None:
    gradient, module = unrolled([0.4, -0.2], bilinear, hvp)
    assert gradient.tolist() == pytest.approx([0.03754425, -0.08440616], abs=5e-9)
    assert module.w.tolist() == [0.3, -0.7]


@pytest.mark.parametrize("hvp", ["finite", "exact"])
def test_a_clipped_virtual_step(hvp: str) -> None:
    """Of the bilinear losses in closed form: c (A w - B' alpha) moves w; c B v corrects, v clipped."""
    w, alpha, buffer = (
        torch.tensor(x, dtype=torch.float64) for x in ([0.3, -0.7], [0.4, -0.2], [0.05, -0.02])
    )
    descent = A @ w - B.T @ alpha
    c = 0.1 / (descent.norm() + 1e-6)
    v = w - XI * (MU * buffer + c * descent + WD * w) - T
    v = v * 0.1 / (v.norm() + 1e-6)
    assert c < 1
    gradient, module = unrolled([0.4, -0.2], bilinear, hvp, clip=0.1)
    assert gradient.tolist() == pytest.approx((0.1 * alpha + XI * c * B @ v).tolist(), abs=1e-12)
    assert module.w.tolist() == [0.3, -0.7]
    # A limit that nothing reaches changes nothing: the factor is never above one.
    assert unrolled([0.4, -0.2], bilinear, hvp, clip=100.0)[0].tolist() == pytest.approx(
        unrolled([0.4, -0.2], bilinear, hvp)[0].tolist(), abs=1e-15
    )


@pytest.mark.parametrize("hvp", ["finite", "exact"])
def test_oracle_1c(hvp: str) -> None:
    gradient, _ = unrolled([0.1, -0.3, 0.2], nonlinear, hvp)
    # The third loss is taken over w of two entries: the net reads w0 and w1.
    assert gradient.tolist() == pytest.approx([-0.00190927, -0.03699211, 0.03890138], abs=1e-8)


def test_the_virtual_step_of_oracle_1b() -> None:
    module = Weights()
    optimizer = torch.optim.SGD([module.w], lr=XI, momentum=MU, weight_decay=WD)
    optimizer.state[module.w]["momentum_buffer"] = torch.tensor([0.05, -0.02], dtype=torch.float64)
    alpha = torch.tensor([0.4, -0.2], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(bilinear(module.w, alpha)[0], module.w)
    with torch.no_grad():
        moved = module.w - sgd_settings([optimizer])[module.w].displacement(module.w, gradient)
    assert moved.tolist() == pytest.approx([0.30137275, -0.70079475], abs=5e-9)
    # And it is the step the optimiser itself would take.
    module.w.grad = gradient
    optimizer.step()
    assert moved.tolist() == pytest.approx(module.w.tolist(), abs=1e-15)


def test_weights_buffers_and_generators_are_restored_bit_for_bit() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    x, y = torch.randn(16, 4), torch.randn(16, 1)
    net(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    alpha = nn.Parameter(torch.tensor(0.5))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state = torch.get_rng_state()

    def loss() -> Tensor:
        return (alpha * net(x) - y).square().mean()

    (gradient,) = SecondOrder().gradients(Step([alpha], loss, loss, net, [optimizer]))
    assert gradient is not None
    assert gradient.isfinite()
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.slow
def test_the_exact_product_of_a_darts_supernet() -> None:
    """Convolutions, batch norm over the batch, pooling, ReLU, cross-entropy."""
    torch.manual_seed(0)
    supernet = Supernet(DartsSpace(4, 3, (1, 8, 10))).double()
    search = DARTS(init_scale=1.0).attach(supernet)
    logits = [p.double().detach().requires_grad_() for p in search.parameters.logits.values()]
    x, y = torch.randn(6, 1, 8, 8, dtype=torch.float64), torch.randint(10, (6,))

    def loss() -> Tensor:
        groups = supernet.groups
        relaxed = [
            search.relaxation.mixture(g, p).weights for g, p in zip(groups.values(), logits, strict=True)
        ]
        supernet.set_mixture(dict(zip(groups, relaxed, strict=True)))
        return nn.functional.cross_entropy(supernet(x), y)

    weights = list(supernet.parameters())
    direction = [torch.randn_like(weight) for weight in weights]
    step = Step(logits, loss, loss, supernet, [])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = forward_over_reverse(step, weights, direction)
    expected = reverse_over_reverse(step, weights, direction)
    for a, b in zip(found, expected, strict=True):
        assert a is not None
        assert b is not None
        assert b.abs().max() > 0.01
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("hvp", ["finite", "exact"])
def test_bundles_have_the_second_order_of_the_plain_form(hvp: Any) -> None:
    torch.manual_seed(0)
    space = DartsSpace(4, 3, (1, 8, 10), num_nodes=1, operations=("sep_conv_3x3", "dil_conv_3x3")).double()
    x, y = torch.randn(2, 6, 1, 8, 8, dtype=torch.float64), torch.randint(10, (2, 6))
    logits, found = torch.randn(2, 2, dtype=torch.float64, requires_grad=True), []
    plain = edge_by_edge(space)
    for network in (plain, Supernet(space, execution="torch"), Supernet(space)):
        network.load_state_dict(plain.state_dict())

        def loss(part: int, network: Supernet = network) -> Tensor:
            network.set_mixture({label: logits.softmax(-1) for label in network.groups})
            return nn.functional.cross_entropy(network(x[part]), y[part])

        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        step = Step([logits], partial(loss, 0), partial(loss, 1), network, [optimizer])
        found += SecondOrder(hvp).gradients(step)
    for gradient in found:
        assert gradient is not None
        assert torch.allclose(gradient, found[0], rtol=0, atol=1e-8 if hvp == "finite" else 1e-10)


class Attended(nn.Module):
    """Attention, whose fused form has no second derivative, and layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        return self.norm(x + self.attention(x, x, x, need_weights=False)[0])


def test_the_exact_product_of_attention() -> None:
    torch.manual_seed(0)
    module = Attended().double()
    alpha = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    tokens = torch.randint(5, (4, 6))
    step = Step(
        [alpha],
        lambda: (alpha * module(tokens)).sigmoid().square().mean(),
        lambda: module(tokens).square().mean(),
        module,
        [torch.optim.SGD(module.parameters(), lr=0.1)],
    )
    exact, finite = (SecondOrder(hvp).gradients(step)[0] for hvp in ("exact", "finite"))
    assert exact is not None
    assert finite is not None
    assert exact.item() == pytest.approx(finite.item(), rel=1e-2)


def test_a_loss_without_forward_mode_is_differentiated_in_reverse() -> None:
    """As is `mse_loss`: whether it is taken or written out must not matter."""

    def losses(w: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        train, val = nonlinear(w, alpha)
        return (nn.functional.mse_loss(train, T[0]) if taken else (train - T[0]) ** 2), val

    taken = True
    with pytest.warns(UserWarning, match="hvp='exact' differentiates twice in reverse mode: "):
        found, module = unrolled([0.1, -0.3, 0.2], losses, "exact")
    assert module.w.tolist() == [0.3, -0.7]
    taken = False
    expected, _ = unrolled([0.1, -0.3, 0.2], losses, "exact")
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-12)


@pytest.mark.parametrize(
    ("optimizer", "named"),
    [
        (lambda p: torch.optim.Adam(p), "Adam"),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True), "nesterov"),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.1), "dampening"),
    ],
)
def test_unsupported_optimisers_are_named(optimizer: Any, named: str) -> None:
    with pytest.raises(SpaceError, match=named):
        sgd_settings([optimizer([nn.Parameter(torch.zeros(1))])])


def test_bad_arguments_are_named() -> None:
    with pytest.raises(SpaceError, match="order=3"):
        DARTS(order=3)  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match="hvp='none'"):
        DARTS(order=2, hvp="none")  # type: ignore[arg-type]
