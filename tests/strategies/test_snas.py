"""Single-level searches: one pass, two gradients; SNAS and the gradient of DSNAS."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spacelang import LayerChoice, ModelSpace, SpaceError, Supernet
from spacelang.hub import SNAS as SparseSpace
from spacelang.strategies import DARTS, DSNAS, GAEA, SNAS, ZODARTS, Moment
from spacelang.strategies.framework import Training
from spacelang.strategies.one_shot.gumbel import gumbel

from ..toys.paths import Anything, rows, trainer


class FourLayers(ModelSpace):
    def __init__(self) -> None:
        super().__init__()
        self.layer = LayerChoice([nn.Identity() for _ in range(4)], label="layer")


class Blend(ModelSpace):
    def __init__(self) -> None:
        super().__init__()
        self.layer = LayerChoice([nn.Linear(3, 1), nn.Linear(3, 1), nn.Linear(3, 1)], label="layer")

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


@dataclass(frozen=True, kw_only=True)
class Joint(DARTS):
    """DARTS on a single level, whose mixtures are known."""

    @property
    def single_level(self) -> bool:
        return True


@pytest.mark.parametrize("window", [1, 2])
def test_weights_and_logits_step_from_one_point(tmp_path: Path, window: int) -> None:
    """Gradients of both are those at the first weights and logits, means over accumulated batches."""
    torch.manual_seed(0)
    supernet = Supernet(Blend())
    search: Any = Joint(init_scale=1.0).attach(supernet, seed=1)
    module = Anything(supernet)
    logits = search.parameters.logits["layer"]
    alpha, weights = logits.detach().clone(), [p.detach().clone() for p in supernet.parameters()]
    given: list[Tensor] = []
    step = search.parameters.step
    search.parameters.step = lambda gradients: (given.extend(g.clone() for g in gradients), step(gradients))
    batches = rows(window, 1)
    fit = trainer(tmp_path, search)
    fit.accumulate_grad_batches = window
    fit.fit(module, batches, rows(1, 2))
    (gradient,) = given
    # By hand, at the first values of both.
    leaves = [alpha.requires_grad_(), *(w.requires_grad_() for w in weights)]
    mixture, linears = leaves[0].softmax(dim=1)[0], list(zip(leaves[1::2], leaves[2::2], strict=True))
    losses = []
    for (x,) in batches:
        y = sum(mixture[k] * nn.functional.linear(x, w, b) for k, (w, b) in enumerate(linears))
        losses.append((y - 1).square().mean())  # type: ignore[union-attr]
    by_hand = torch.autograd.grad(torch.stack(losses).mean(), leaves)
    assert torch.allclose(gradient, by_hand[0], atol=1e-6)
    for p, w, g in zip(supernet.parameters(), weights, by_hand[1:], strict=True):
        assert torch.allclose(p, w - 0.01 * g, atol=1e-6)
    assert not torch.equal(logits, alpha)


def test_the_gradient_of_dsnas_is_that_of_the_log_probability() -> None:
    group = Supernet(Blend()).groups["layer"]
    alpha = torch.tensor([[0.5, -0.2, 0.1]], dtype=torch.float64, requires_grad=True)
    p = alpha.softmax(dim=1)[0].detach()
    seen = set()
    for seed in range(12):
        moment = Moment(0, 1, torch.Generator().manual_seed(seed))
        mixture = DSNAS().relaxation.mixture(group, alpha, moment)
        (k,) = [k for k, active in enumerate(mixture.active[0]) if active]  # type: ignore[index]
        onehot = nn.functional.one_hot(torch.tensor(k), 3)
        assert torch.equal(mixture.weights[0].detach(), onehot.double())
        (gradient,) = torch.autograd.grad(1.7 * mixture.weights[0, k], alpha)
        assert torch.allclose(gradient[0], 1.7 * (onehot - p))
        seen.add(k)
    assert seen == {0, 1, 2}


def test_the_factor_of_16_bit_precision_is_removed() -> None:
    scaler = SimpleNamespace(get_scale=lambda: 8.0)
    fit: Any = SimpleNamespace(precision_plugin=SimpleNamespace(scaler=scaler))
    training = Training(fit, Anything(nn.Linear(1, 1)))
    found = training.unscaled([torch.tensor([8.0, -4.0]), None])
    assert found[0].tolist() == [1.0, -0.5]  # type: ignore[union-attr]
    assert found[1] is None
    assert training.unscaled([torch.tensor([1.0]), torch.tensor([torch.inf])]) == [None, None]


def test_settings_without_effect_are_named() -> None:
    for strategy, setting in ((SNAS, "weights_first"), (ZODARTS, "update_every"), (GAEA, "weight_decay")):
        with pytest.raises(SpaceError, match=f"so {setting}=3 would have no effect"):
            strategy(**{setting: 3})


def test_a_single_level_takes_one_pass_a_batch(tmp_path: Path) -> None:
    for strategy in (SNAS(), DSNAS()):
        supernet = Supernet(Blend())
        module = Anything(supernet)
        trainer(tmp_path, strategy.attach(supernet)).fit(module, rows(3, 1), rows(2, 2))
        assert len(module.seen) == 3  # training steps with gradients; DARTS would take six
        assert not supernet.groups["layer"].weights.requires_grad  # type: ignore[union-attr]


def test_oracle_of_the_concrete_distribution() -> None:
    """Density of z = (.1, .2, .3, .4) at tau = .5; a sample is softmax((alpha + G) / tau) of one draw."""
    alpha = torch.tensor([[0.5, -0.2, 0.1, 0.0]], dtype=torch.float64)
    concrete = torch.distributions.RelaxedOneHotCategorical(torch.tensor(0.5), logits=alpha[0])
    z = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    assert concrete.log_prob(z).item() == pytest.approx(-0.2989925305, abs=1e-7)
    group = Supernet(FourLayers()).groups["layer"]
    relaxation = SNAS(temperature=0.5, none=False).relaxation
    moment = Moment(0, 1, torch.Generator().manual_seed(0))
    mixed = relaxation.mixture(group, alpha, moment).weights
    noise = gumbel((1, 4), torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(mixed, ((alpha + noise) / 0.5).softmax(dim=1), atol=1e-6, rtol=0)


def test_edges_of_none_are_removed() -> None:
    """In the sparse cells of SNAS a node keeps every edge whose most probable candidate is not "none"."""
    space = SparseSpace(2, 3, (1, 8, 3), num_nodes=2)
    strategy = SNAS()
    search: Any = strategy.attach(strategy.supernet(space))
    kept = {"normal/0_2": "sep_conv_3x3", "normal/0_3": "skip_connect", "normal/1_3": "max_pool_3x3",
            "normal/2_3": "sep_conv_3x3"}  # fmt: skip
    for label, logits in search.parameters.logits.items():
        columns = search.supernet.groups[label].columns
        logits.data.zero_()
        chosen = kept.get(label, "sep_conv_3x3" if label == "reduce/1_2" else "none")
        logits.data[0, columns.index(chosen)] = 1.0
    arch = search.derive(1)[0]
    assert {label: value for label, value in arch.items() if value != "none"} == {
        **kept, "reduce/1_2": "sep_conv_3x3",
    }  # fmt: skip
