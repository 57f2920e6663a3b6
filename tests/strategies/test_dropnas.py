"""DropNAS against its oracles: what stays, the shift, the step of decay, the derivation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from spacelang import Experiment, Supernet
from spacelang.hub import DARTS as DartsSpace
from spacelang.strategies import DropNAS, Moment
from spacelang.strategies.framework import masked_softmax
from spacelang.strategies.one_shot.dropnas import decay_weights, shifted, stay, with_weights
from spacelang.testing import toy_spaces
from spacelang.testing.toy_evaluators import Fit

from .test_derivation import OneCell, oracle_logits, slots_of


def test_oracle_of_the_shift() -> None:
    """alpha = (.3, -.2, .5, .1), entry 1 dropped; the others move by .05, -.02, .01."""
    before = torch.tensor([[0.3, -0.2, 0.5, 0.1]], dtype=torch.float64)
    kept = torch.tensor([[True, False, True, True]])
    expected = [0.32893292, 0, 0.40175958, 0.26930750]
    assert masked_softmax(before, kept)[0].tolist() == pytest.approx(expected, abs=5e-9)
    after = before + torch.tensor([[0.05, 0, -0.02, 0.01]], dtype=torch.float64)
    moved = shifted(before, after, kept, ~kept)
    shift = -0.0115490169
    assert (moved - after)[0].tolist() == pytest.approx([shift, 0, shift, shift], abs=5e-11)
    expected = [0.28497271, 0.16632479, 0.32453502, 0.22416748]
    assert moved.softmax(dim=1)[0].tolist() == pytest.approx(expected, abs=5e-9)
    assert torch.equal(shifted(before, after, kept | True, torch.zeros_like(kept)), after)


def test_oracle_13a_of_two_steps_a_batch() -> None:
    """w = (.5, -1), task gradient (.2, -.1), SGD lr .0375 with momentum .9, decay 3e-4."""
    w, idle = (nn.Parameter(torch.tensor([0.5, -1.0], dtype=torch.float64)) for _ in range(2))
    optimizer = torch.optim.SGD([w, idle], lr=0.0375, momentum=0.9)
    w.grad = torch.tensor([0.2, -0.1], dtype=torch.float64)
    optimizer.step()
    assert w.tolist() == pytest.approx([0.4925, -0.99625], abs=1e-12)
    decay_weights([optimizer], 3e-4, clip=3.0)
    assert w.tolist() == pytest.approx([0.48573891875, -0.992852584375], abs=1e-12)
    buffer = optimizer.state[w]["momentum_buffer"]
    assert buffer.tolist() == pytest.approx([0.1802955, -0.09059775], abs=1e-12)
    assert idle.tolist() == [0.5, -1]  # no gradient, no decay


def test_each_group_keeps_one_and_drops_with_the_fourth_root() -> None:
    assert pytest.approx(0.0740082804, abs=5e-11) == 3e-5**0.25
    learnable = torch.tensor([False] * 4 + [True] * 4)
    there = torch.ones(2000, 8, dtype=torch.bool)
    kept = stay(there, learnable, 0.5**4, torch.Generator().manual_seed(0))
    assert kept[:, :4].any(dim=1).all()
    assert kept[:, 4:].any(dim=1).all()
    # P(kept | not all dropped) = .5 / (1 - .5^4) = 8/15; 16,000 draws, five standard deviations
    assert float(kept.float().mean()) == pytest.approx(8 / 15, abs=5 * (0.25 / 16_000) ** 0.5)
    assert stay(there, learnable, 0.0, torch.Generator()).all()
    there[:, 0] = False
    assert not stay(there, learnable, 0.1, torch.Generator())[:, 0].any()


def test_skips_and_pools_are_of_the_group_without_weights() -> None:
    learnable = with_weights(Supernet(DartsSpace(2, 3, (1, 8, 10))))
    assert learnable == {label: [False] * 3 + [True] * 4 for label in ("normal", "reduce")}


def test_derivation_compares_logits_before_any_softmax() -> None:
    """Oracle 1a of the rule of pt.darts."""
    supernet = Supernet(OneCell(distinct_inputs=True))
    table = DropNAS().relaxation.probabilities(supernet.groups["cell"], oracle_logits())
    (arch,) = DropNAS().architectures(supernet, {"cell": table}, 1)
    assert slots_of(arch) == [
        [("sep_conv_5x5", 0), ("dil_conv_5x5", 1)],
        [("skip_connect", 0), ("max_pool_3x3", 2)],
        [("max_pool_3x3", 2), ("sep_conv_3x3", 3)],
        [("dil_conv_3x3", 2), ("sep_conv_5x5", 0)],
    ]


def test_nothing_is_dropped_in_the_warm_up() -> None:
    strategy = DropNAS(drop=0.9, warmup_epochs=1)
    search = strategy.attach(Supernet(toy_spaces()["Everything"]))
    logits, group = search.parameters.logits["cell"], search.supernet.groups["cell"]

    def active(epoch: int) -> list[bool]:
        moment = Moment(epoch, 2, torch.Generator().manual_seed(0))
        rows = search.relaxation.mixture(group, logits, moment).active
        return [entry for row in rows for entry in row]  # type: ignore[union-attr]

    there = [entry for row in group.alive for entry in row]
    assert active(0) == there
    assert sum(active(1)) < sum(there)


def test_what_was_dropped_keeps_its_probability_through_a_batch(tmp_path: Path) -> None:
    """One batch of one epoch: logits start from the seed, so their probabilities are known."""
    strategy = DropNAS(drop=0.3, learning_rate=0.1)
    space = toy_spaces()["Layers"]
    experiment = Experiment(space, OneBatch(1), strategy, directory=tmp_path / "run")
    experiment.run()
    first = strategy.attach(strategy.supernet(space), seed=0).parameters.logits
    search = experiment.search
    dropped = 0
    for label, kept in search.relaxation.kept.items():
        before, after = first[label].softmax(dim=1), search.parameters.logits[label].softmax(dim=1)
        assert torch.allclose(before[~kept], after[~kept], atol=1e-6)
        dropped += int((~kept).sum())
        assert (~kept).any() or not torch.allclose(before, after)
    assert dropped


class OneBatch(Fit):
    """A fit whose only batch is the first of three."""

    def fit(self, model: nn.Module, **settings: object) -> object:
        from spacelang.testing import toy_evaluators

        loader = toy_evaluators._batches(0)
        trainer = toy_evaluators.quiet_trainer(
            1,
            settings["directory"],  # type: ignore[arg-type]
            settings["callbacks"],  # type: ignore[arg-type]
            plugins=[settings["checkpoint_io"]],
            limit_train_batches=1,
        )
        trainer.fit(self.lightning_module(model), loader, toy_evaluators._batches(1))
        return trainer
