"""Zero-cost proxies against numbers worked out by hand, and what they must not touch."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spacelang import ModelSpace, SpaceError, value_choice
from spacelang import nn as space_nn
from spacelang.evaluators import Tabular, ZeroCost, proxy_report, verdict
from spacelang.evaluators.untrained.proxies import PROXIES, channel_fisher, jacobian_score

NOTHING = torch.zeros(1)


def linear(rows: Sequence[Sequence[float]]) -> nn.Linear:
    """A linear layer in double precision, without bias."""
    weight = torch.tensor(rows, dtype=torch.float64)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=torch.float64)
    layer.weight.data = weight
    return layer


def regression(proxy: str) -> float:
    """Mean squared error of w = (-.5, .75): g = (.75, .125), H g = (1.125, 1.1875)."""
    x = torch.tensor([[1, 2], [0, 1], [-1, 0.5]], dtype=torch.float64)
    y = torch.tensor([[1.0], [0], [2]], dtype=torch.float64)
    return score(proxy, linear([[-0.5, 0.75]]), x, y)


def score(proxy: str, model: nn.Module, x: Tensor, y: Tensor = NOTHING, loss: Any = None) -> float:
    loss = loss or nn.functional.mse_loss
    return ZeroCost(proxy, batch=(x, y), loss=loss).evaluate(model)[proxy]


class Net(nn.Module):
    """Every kind of layer that matters: batch norm, dropout, ReLUs in place, a layer that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 2)
        self.unused = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.act(self.norm(self.conv(x))))
        return self.head(x.mean(dim=(2, 3)))  # type: ignore[no-any-return]


def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 3, 8, 8, generator=generator), torch.tensor([0, 1, 0, 1, 0, 1])


# -- numbers


@pytest.mark.parametrize(
    ("proxy", "expected"),
    [("grad_norm", 0.76034532), ("plain", -0.28125), ("snip", 0.46875), ("grasp", -0.328125)],
)
def test_a_regression(proxy: str, expected: float) -> None:
    assert regression(proxy) == pytest.approx(expected, abs=1e-8)


def test_counts_and_norms() -> None:
    model = nn.Sequential(linear([[3, 0], [0, 4]]), nn.BatchNorm1d(2), linear([[5, 12]]))
    x = torch.zeros(7, 2)
    assert score("params", model, x) == 4 + 4 + 2
    assert score("l2_norm", model, x) == pytest.approx(5 + 13)
    assert score("flops", nn.Conv2d(3, 4, 3, padding=1), torch.zeros(7, 3, 8, 8)) == 2 * 4 * 27 * 64


W1, W2 = [[1, -2], [0.5, 3], [-1, 0]], [[2, -1, 0.5]]


@pytest.mark.parametrize("between", [(), (nn.ReLU(),), (nn.BatchNorm1d(3, affine=True),)])
def test_synflow_is_layers_times_flow(between: tuple[nn.Module, ...]) -> None:
    """R = |W2| |W1| 1 = 10 and every layer carries all of it; batch norm is not there."""
    for module in between:
        module.double()
    model = nn.Sequential(linear(W1), *between, linear(W2))
    assert score("synflow", model, torch.randn(4, 2)) == pytest.approx(20)


def test_synflow_does_not_overflow() -> None:
    """R = 8 ** 50 is beyond float32, whose largest number is about 8 ** 42.7."""
    model = nn.Sequential(*(nn.Linear(8, 8, bias=False) for _ in range(50)), nn.Linear(8, 1, bias=False))
    for layer in model:
        nn.init.constant_(layer.weight, -1.0)  # type: ignore[arg-type]
    assert score("synflow", model, torch.ones(1, 8)) == pytest.approx(51 * 8.0**51)


def test_fisher_of_channels() -> None:
    activation, gradient = torch.tensor([[1, 2], [0.5, -1]]), torch.tensor([[0.1, -0.2], [0.3, 0.4]])
    assert channel_fisher(activation, gradient).tolist() == pytest.approx([0.008125, 0.08])
    # Two halves of one channel in space add up before they are squared.
    halves = [tensor.unsqueeze(2).repeat(1, 1, 2) for tensor in (activation / 2, gradient)]
    assert channel_fisher(*halves).tolist() == pytest.approx([0.008125, 0.08])


def test_fisher_of_a_network_counts_each_weight_of_a_channel() -> None:
    """The layer's output is the activation above; the loss is linear, with the gradient above."""
    layer = linear([[1, 0, 0], [0, 1, 0]])  # three weights a channel
    x = torch.tensor([[1, 2, 5], [0.5, -1, 5]], dtype=torch.float64)
    gradient = torch.tensor([[0.1, -0.2], [0.3, 0.4]], dtype=torch.float64)

    def loss(output: Tensor, y: Tensor) -> Tensor:
        return (output * gradient).sum()

    assert score("fisher", layer, x, loss=loss) == pytest.approx(3 * (0.008125 + 0.08))
    as_tokens = score("fisher", layer, x.unsqueeze(1), loss=lambda o, y: loss(o.squeeze(1), y))
    assert as_tokens == pytest.approx(3 * (0.008125 + 0.08))
    conv = nn.Conv2d(3, 2, 1, bias=False, dtype=torch.float64)
    conv.weight.data = layer.weight.data[:, :, None, None]
    as_image = score("fisher", conv, x[:, :, None, None], loss=lambda o, y: loss(o.flatten(1), y))
    assert as_image == pytest.approx(3 * (0.008125 + 0.08))


def test_fisher_sees_activations_before_a_relu_in_place() -> None:
    torch.manual_seed(0)
    layers = nn.Linear(3, 4), nn.Linear(4, 2)
    x, y = torch.randn(5, 3), torch.tensor([0, 1, 0, 1, 1])
    inplace, apart = (
        score("fisher", nn.Sequential(layers[0], nn.ReLU(flag), layers[1]), x, y, nn.functional.cross_entropy)
        for flag in (True, False)
    )
    assert inplace == apart > 0


def test_jacob_cov() -> None:
    rows = [[1, 2, 3, 4], [2, 1, 0, 1], [0, 1, -1, 2]]
    jacobian = torch.tensor(rows, dtype=torch.float64)
    assert float(jacobian_score(jacobian)) == pytest.approx(-11.28397505, abs=1e-8)

    class Product(nn.Module):
        """The gradient of sample i is row i."""

        def forward(self, x: Tensor) -> Tensor:
            return (x * jacobian).sum(1)

    x = torch.randn(3, 4, dtype=torch.float64)
    assert score("jacob_cov", Product(), x) == pytest.approx(-11.28397505, abs=1e-8)


def test_naswot() -> None:
    """K = [[5, 3, 2], [3, 5, 0], [2, 0, 5]], |K| = 60."""
    codes = torch.tensor([[1, 0, 1, 1, 0], [1, 1, 0, 1, 0], [0, 0, 1, 0, 1]]) * 2.0 - 1
    for inplace in (False, True):
        model = nn.Sequential(nn.ReLU(inplace), nn.Linear(5, 2))
        assert score("naswot", model, codes) == pytest.approx(math.log(60))


def test_naswot_leaves_out_relus_that_do_not_reach_the_output() -> None:
    class Dead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.ReLU(), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            self.unused(x.flip(0))
            return self.used(x)  # type: ignore[no-any-return]

    codes = torch.tensor([[1, 0, 1, 1, 0], [1, 1, 0, 1, 0], [0, 0, 1, 0, 1]]) * 2.0 - 1
    assert score("naswot", Dead(), codes) == pytest.approx(math.log(60))


# -- what does not exist


def test_values_that_do_not_exist_are_nan() -> None:
    same = torch.ones(3, 5)
    assert math.isnan(score("naswot", nn.ReLU(), same))  # three equal codes: det K = 0
    assert math.isnan(score("naswot", nn.Linear(5, 2), same))  # no ReLU
    assert math.isnan(score("jacob_cov", nn.Flatten(), same))  # constant gradients correlate with nothing
    x = torch.full((2, 3), math.inf)
    model = nn.Linear(3, 2)
    for proxy in ("grad_norm", "plain", "snip", "grasp", "fisher"):
        assert math.isnan(score(proxy, model, x, torch.zeros(2, 2))), proxy


def test_a_network_cut_in_two_has_no_gradients() -> None:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x).detach()  # type: ignore[no-any-return]

    for proxy in ("grad_norm", "plain", "snip", "grasp", "fisher", "synflow"):
        assert score(proxy, Cut(), torch.ones(2, 3), torch.zeros(2, 2)) == 0, proxy


# -- the evaluator


@pytest.mark.slow
@pytest.mark.parametrize("proxy", PROXIES)
def test_nothing_handed_in_changes(proxy: str) -> None:
    torch.manual_seed(0)
    model = Net().eval()
    model.conv.weight.grad = torch.ones_like(model.conv.weight)
    before, rng = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    x, y = images()
    value = ZeroCost(proxy, batch=(x, y)).evaluate(model)["default"]
    assert math.isfinite(value)
    assert not model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.conv.weight.dtype == torch.float32
    assert torch.equal(model.conv.weight.grad, torch.ones_like(model.conv.weight))
    assert model.head.weight.grad is None
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), rng)
    assert torch.equal(x, images()[0])
    assert not x.requires_grad
    with torch.no_grad():
        assert ZeroCost(proxy, batch=(x, y)).evaluate(model)["default"] == value


def test_several_proxies_at_once() -> None:
    reports: list[Any] = []
    evaluator = ZeroCost("snip", "params", batch=images())
    found = evaluator.evaluate(Net(), lambda metrics, epoch: reports.append((epoch, metrics)))
    assert list(found) == ["default", "snip", "params"]
    assert found["default"] == found["snip"]
    assert reports == [(0, found)]


def test_an_auxiliary_head_is_not_scored() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.aux = linear(W2), linear(W2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.main(x), self.aux(x)

    assert score("synflow", Two(), torch.zeros(1, 3)) == pytest.approx(3.5)


def test_a_search(tmp_path: Any) -> None:
    from spacelang import Experiment
    from spacelang.strategies.multi_trial import Random
    from spacelang.testing import toy_spaces

    batch = torch.randn(4, 4, 6, 6), torch.tensor([0, 1, 0, 1])
    run = Experiment(
        toy_spaces()["Layers"], ZeroCost("synflow", batch=batch), Random(), max_trials=3, directory=tmp_path
    )
    run.run()
    assert [trial.state for trial in run.history] == ["done"] * 3


class Named(nn.Module):
    """Its output is no tensor."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": x}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ZeroCost("synflo", batch=images()), "'synflo' is not a proxy.*Closest: 'synflow'"),
        (lambda: ZeroCost(batch=images()), "needs the name of a proxy"),
        (lambda: ZeroCost("snip", batch=images()[0]), "the inputs and the targets of one minibatch"),
        (lambda: score("snip", nn.Linear(3, 2), torch.ones(2, 3), loss=lambda o, y: o), r"shape \(2, 2\)"),
        (lambda: score("snip", nn.Linear(3, 2), torch.ones(2, 3), loss=lambda o, y: 1.0), "returned 1.0"),
        (lambda: score("naswot", Named(), torch.ones(2, 3)), "returned a dict; expected a tensor"),
    ],
)
def test_refusals(make: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        make()


# -- zen, the ensemble, and reports on a table


def test_zen_by_hand() -> None:
    """One layer of one weight: |w * .01 e| of each draw; a batch norm adds the log of its deviation."""
    x = torch.zeros(3, 2, 4, 4)
    conv = nn.Conv2d(2, 2, 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = score("zen", conv, x)
        torch.manual_seed(0)
        logs = []
        for _ in range(32):
            noise = (torch.randn_like(x), torch.randn_like(x))[1]
            weight = torch.empty_like(conv.weight).normal_()
            moved = 0.01 * nn.functional.conv2d(noise, weight)
            logs.append(moved.flatten(1).norm(dim=1).mean().log())
    assert found == pytest.approx(float(torch.stack(logs).mean()), abs=1e-4)


def test_zen_ends_before_the_last_pooling_and_adds_deviations() -> None:
    """Whatever follows a global pooling does not count, and neither do the present weights."""

    def scored(*layers: nn.Module) -> float:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return score("zen", nn.Sequential(*layers), torch.zeros(8, 3, 6, 6))

    torch.manual_seed(1)
    body = scored(nn.Conv2d(3, 4, 3))
    assert scored(nn.Conv2d(3, 4, 3)) == body  # of other weights
    assert scored(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1)) == pytest.approx(body)
    assert scored(nn.Conv2d(3, 4, 3), nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten()) == body
    # A batch norm divides what it adds: the variances of four channels are nearly alike.
    assert scored(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)) == pytest.approx(body, abs=0.3)
    assert scored(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)) == scored(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
    )


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((2, 5), (1, 3), 1),
        ((1, 3), (2, 5), -1),
        ((2, 3), (1, 5), 0),
        ((1, 1), (1, 1), 0),
        ((2, 2), (1, 2), 0),
    ],
)
def test_an_ensemble_agrees_or_abstains(a: Any, b: Any, expected: int) -> None:
    names = ("synflow", "snip")
    assert verdict(dict(zip(names, a, strict=True)), dict(zip(names, b, strict=True)), names) == expected


def test_no_value_is_no_vote() -> None:
    assert verdict({"snip": math.nan}, {"snip": 1.0}, ("snip",)) == 0


class Widths(ModelSpace):
    """Four layers of which the wider has more parameters."""

    def __init__(self) -> None:
        super().__init__()
        width = value_choice([1, 2, 3, 4], label="width")
        self.layers = nn.Sequential(space_nn.Linear(3, width), nn.ReLU(), space_nn.Linear(width, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


def test_a_report_on_a_table() -> None:
    """Accuracies .1, .2, .4, .3 by width: Spearman of the number of parameters is 1 - 6 * 2 / 60 = .8."""
    archs = [f'{{"width": {width}}}' for width in (1, 2, 3, 4)]
    table = Tabular({"arch": archs, "acc": [0.1, 0.2, 0.4, 0.3]})
    batch = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0, 1])
    found = proxy_report(
        Widths(), table, "acc", batch=batch, proxies=("params", "flops"), voters=("params", "flops")
    )
    assert found.spearman == pytest.approx({"params": 0.8, "flops": 0.8})
    assert (found.architectures, found.missing) == (4, {"params": 0, "flops": 0})
    assert (found.decided, found.right) == (1.0, pytest.approx(5 / 6))
    assert "params, flops agree on 100% of all pairs, 83% of these right" in str(found)
    again = proxy_report(Widths(), table, "acc", batch=batch, proxies=("snip",), architectures=3)
    assert again == proxy_report(Widths(), table, "acc", batch=batch, proxies=("snip",), architectures=3)
    with pytest.raises(SpaceError, match="no metric 'loss'; it has acc"):
        proxy_report(Widths(), table, "loss", batch=batch)
