"""ENAS against its oracles; the controller's distribution, its learning, and one whole search."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from spacelang import Cell, InputChoice, LayerChoice, ModelSpace, SpaceError, Supernet, value_choice
from spacelang import nn as space_nn
from spacelang.hub import ENAS as EnasSpace
from spacelang.hub import ENASMacro
from spacelang.strategies import ENAS
from spacelang.strategies.framework import Controller, Sample
from spacelang.strategies.framework.controller import _Walk, skip_divergence, tempered
from spacelang.strategies.one_shot.enas import Baseline

from ..toys.paths import Anything, Small, rows, searched, trainer
from ..toys.spaces import CASES, Case

LOGITS = torch.tensor([3, -1, 0.5, 10, 0], dtype=torch.float64)
FEW = {"calibration_batches": 2, "candidates": 3}


def entropy(p: torch.Tensor) -> float:
    return float(torch.special.entr(p).sum())


def controller(space: ModelSpace, **settings: Any) -> Controller:
    return ENAS(**settings).controller(Supernet(space), torch.Generator().manual_seed(0))


def samples(net: Controller, count: int) -> list[Sample]:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        return [net.sample(generator) for _ in range(count)]


# -- oracles -----------------------------------------------------------------------------------------------


def test_tempered_logits_oracle() -> None:
    logits = tempered(LOGITS, 5, 2.5)
    assert logits.tolist() == pytest.approx([1.34262392, -0.49343830, 0.24916999, 2.41006895, 0], abs=5e-9)
    p = logits.softmax(0)
    assert p.tolist() == pytest.approx([0.21442657, 0.03418904, 0.07184517, 0.62353967, 0.05599954], abs=5e-9)
    assert entropy(p) == pytest.approx(1.0907125, abs=5e-8)


def test_operation_logits_oracle() -> None:
    logits = tempered(LOGITS, 1, 1.1 / 2.5)
    p = logits.softmax(0)
    assert p.tolist() == pytest.approx([0.25639381, 0.11836689, 0.20280036, 0.25695230, 0.16548664], abs=5e-9)
    assert entropy(p) == pytest.approx(1.5719797, abs=2e-7)
    biased = (logits + torch.tensor([0.25, 0.25, -0.25, -0.25, -0.25])).softmax(0)
    assert biased.tolist() == pytest.approx(
        [0.34005047, 0.15698787, 0.16313882, 0.20670031, 0.13312253], abs=5e-9
    )


def test_baseline_oracle() -> None:
    baseline, values, advantages = Baseline(0.99), [], []
    for reward in (0.5, 0.6, 0.4):
        advantages.append(baseline.advantage(reward))
        values.append(baseline.value)
    assert values == pytest.approx([0.005, 0.01095, 0.0148405], abs=1e-12)
    assert advantages == pytest.approx([0.495, 0.58905, 0.3851595], abs=1e-12)


def test_skip_oracle() -> None:
    q = torch.tensor([0.8, -0.4], dtype=torch.float64)
    assert float(skip_divergence(q, 0.4)) == pytest.approx(0.1714687, abs=5e-8)


# -- the controller ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_space_can_be_sampled(case: Case) -> None:
    space = case.space()
    drawn = samples(controller(space), 20)
    valid = [s.arch for s in drawn if not space.decision_space.unfit(s.arch)]
    assert valid  # what breaks a constraint is drawn again by the search
    for arch in valid:
        space.validate(arch)
        assert space.canonical(arch).keys() == arch.keys()  # nothing that is inactive


@pytest.mark.slow
def test_probabilities_sum_to_one() -> None:
    """Over all 21 architectures, conditional ones and sets included."""
    drawn = samples(controller(Small()), 300)
    found = {json.dumps(s.arch, sort_keys=True): float(s.log_prob) for s in drawn}
    assert len(found) == 21
    assert sum(map(math.exp, found.values())) == pytest.approx(1, abs=1e-5)
    assert all(found[json.dumps(s.arch, sort_keys=True)] == pytest.approx(float(s.log_prob)) for s in drawn)


class TwoCells(ModelSpace):
    """Normal and reduction cell of one node, distinct inputs: (2 inputs in 2 orders, 2 x 2 operations)^2."""

    def __init__(self) -> None:
        super().__init__()
        operations = {"tanh": nn.Tanh(), "relu": nn.ReLU()}
        self.normal = Cell(operations, 1, 2, 2, label="normal", distinct_inputs=True)
        self.reduce = Cell(operations, 1, 2, 2, label="reduce", distinct_inputs=True)
        self.two = InputChoice(3, 2, label="two")


@pytest.mark.slow
def test_slots_of_a_node_read_distinct_inputs() -> None:
    drawn = samples(controller(TwoCells()), 100)
    assert all(s.arch["normal/input_2_0"] != s.arch["normal/input_2_1"] for s in drawn)
    # The second index of a node has one candidate left, so only 2 of 4 index draws have entropy.
    assert all(
        s.entropy < 2 * math.log(2) + 4 * math.log(2) + math.log(3) + math.log(2) + 1e-4 for s in drawn
    )
    assert {tuple(s.arch["two"]) for s in drawn} == {(0, 1), (0, 2), (1, 2)}


def test_cells_with_the_same_operations_share_their_layers() -> None:
    net = controller(TwoCells())
    assert net.place["normal"] == net.place["reduce"] != net.place["two"]
    assert net.lstm.weight_ih.abs().max() <= 0.1
    assert net.lstm.hidden_size == 64
    assert not any(head.bias.any() for head in net.heads)


@pytest.mark.slow
def test_operations_may_be_favoured() -> None:
    net = controller(TwoCells(), operation_bias={"normal/tanh": 5.0})
    drawn = samples(net, 100)
    assert sum(s.arch["normal/op_2_0"] == "tanh" for s in drawn) > 95
    assert sum(s.arch["reduce/op_2_0"] == "tanh" for s in drawn) < 80
    with pytest.raises(SpaceError, match=r"'normal/tan', but no cell has this operation.* 'normal/tanh'"):
        ENAS(operation_bias={"normal/tan": 1.0}).attach(Supernet(TwoCells()))


def test_the_authors_biases_favour_convolutions() -> None:
    """10 or 0 before tanh and 0.25 or -0.25 after it: without weights the first logits are known."""
    supernet = Supernet(EnasSpace(4, 3, (1, 8, 10)))
    net = ENAS.micro().controller(supernet, torch.Generator().manual_seed(0))
    names = supernet.groups["normal"].columns
    (head,) = net.heads
    assert head.bias.tolist() == [10.0 * ("conv" in name) for name in names]
    assert head.bias.requires_grad  # it is learned
    with torch.no_grad():
        head.weight.zero_()
    logits = _Walk(net, None, (), None)._logits(supernet.groups["normal"], net.op_tanh_reduce)
    assert logits.tolist() == pytest.approx([0.44 + 0.25 if "conv" in name else -0.25 for name in names])
    logits = _Walk(net, None, (), None)._logits(supernet.groups["reduce"], net.op_tanh_reduce)
    assert logits.tolist() == pytest.approx([0.44 if "conv" in name else 0.0 for name in names])
    with pytest.raises(SpaceError, match=r"first_bias names 'sep_conv_3x3', but no cell has this operation"):
        ENAS.micro(operation_bias={}).attach(Supernet(TwoCells()))


def test_the_skips_of_a_chain_are_penalised_by_layer() -> None:
    """Three layers have 0, 1 and 2 skips: the divergences of a layer are summed, then the mean is taken."""
    supernet = Supernet(ENASMacro(4, 3, (1, 8, 10)))
    strategy = ENAS.macro()
    assert (strategy.tanh_constant, strategy.samples, strategy.controller_steps) == (1.5, 20, 50)
    assert (strategy.skip_target, strategy.skip_weight, strategy.entropy_weight) == (0.4, 0.8, 1e-4)
    assert ENAS.macro(samples=3).samples == 3
    net = strategy.controller(supernet, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for group in net.groups:
            head = net.heads[net.place[group.label]]
            head.weight.zero_()
            if "skip" in group.label:
                head.bias.copy_(torch.tensor([0.2, 1.0]))
    low, high = (1.5 * math.tanh(x) for x in (0.2, 1.0))
    one = float(skip_divergence(torch.tensor([(high - low) / 2]), 0.4))
    sample = net.sample(torch.Generator().manual_seed(0))
    assert sample.skip_divergence.item() == pytest.approx((one + 2 * one) / 2, rel=1e-5)
    sample.skip_divergence.backward()
    assert all(net.heads[net.place[f"layer_2/skip_{j}"]].bias.grad.any() for j in (0, 1))


def test_the_gradient_is_that_of_the_log_probability() -> None:
    """Of the entropy no gradient flows, and every part of the controller is reached."""
    net = controller(CASES["cells"].space())
    sample = net.sample(torch.Generator())
    assert isinstance(sample.entropy, float)
    sample.log_prob.backward()
    missing = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert missing == []


# -- learning ----------------------------------------------------------------------------------------------


class Bandit(ModelSpace):
    """One choice and one set of any inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = LayerChoice({"good": nn.Tanh(), "bad": nn.ReLU(), "worse": nn.Identity()}, label="layer")
        self.join = InputChoice(3, n_chosen=None, label="join")


def trained(steps: int, **settings: Any) -> Any:
    search = ENAS(samples=5, learning_rate=0.02, entropy_weight=0.0, **settings).attach(Supernet(Bandit()))
    search._reward = lambda scorer, arch: float(arch["layer"] == "good")
    for _ in range(steps):
        search._step(None)
    return search


def share(search: Any, accepts: Any) -> float:
    drawn = samples(search.controller, 100)
    return sum(bool(accepts(s.arch)) for s in drawn) / len(drawn)


@pytest.mark.slow
def test_the_controller_learns_what_is_rewarded() -> None:
    before, after = trained(0, skip_weight=0.0), trained(25, skip_weight=0.0)
    assert share(before, lambda arch: arch["layer"] == "good") < 0.5
    # tanh bounds the logits by 1.1: the largest probability of three is e^1.1 / (e^1.1 + 2 e^-1.1) = .82.
    assert share(after, lambda arch: arch["layer"] == "good") > 0.65
    assert 0 < after.baseline.value < 1


@pytest.mark.slow
def test_the_skip_penalty_draws_inclusion_to_its_target() -> None:
    few, many = (trained(25, skip_target=t, skip_weight=20.0) for t in (0.3, 0.7))
    assert share(few, lambda arch: 0 in arch["join"]) < share(many, lambda arch: 0 in arch["join"]) - 0.2


def test_one_step_is_the_mean_policy_gradient() -> None:
    search = ENAS(samples=3, entropy_weight=0.1, skip_weight=0.8).attach(Supernet(Bandit()))
    rewards = iter([0.5, 0.6, 0.4])
    search._reward = lambda scorer, arch: next(rewards)
    twin, generator = ENAS().attach(Supernet(Bandit())).controller, torch.Generator()
    generator.set_state(search.moment.generator.get_state())
    search.optimizer.step = lambda: None
    search._step(None)
    baseline, loss = Baseline(0.99), torch.zeros(())
    for reward in (0.5, 0.6, 0.4):
        sample = twin.sample(generator)
        advantage = baseline.advantage(reward + 0.1 * sample.entropy)
        loss = loss + (-sample.log_prob * advantage + 0.8 * sample.skip_divergence) / 3
    loss.backward()
    for (name, p), q in zip(search.controller.named_parameters(), twin.parameters(), strict=True):
        if q.grad is None:
            assert p.grad is None, name
        else:
            assert torch.allclose(p.grad, q.grad, atol=1e-7), name


def test_a_reward_that_is_no_number_teaches_nothing() -> None:
    search = ENAS(samples=2).attach(Supernet(Bandit()))
    before = [p.clone() for p in search.controller.parameters()]
    search._reward = lambda scorer, arch: math.nan
    search._step(None)
    assert search.baseline.value == 0
    assert all(torch.equal(p, q) for p, q in zip(before, search.controller.parameters(), strict=True))


def test_constraints_are_met_by_drawing_again() -> None:
    class Tight(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            a, b = value_choice([1, 2, 3], label="a"), value_choice([1, 2, 3], label="b")
            self.linear = space_nn.Linear(a, b)
            self.constrain(a * b == 6)

    search = ENAS(filter=lambda arch: arch["a"] == 2).attach(Supernet(Tight()))
    assert [search.sample() for _ in range(5)] == [{"a": 2, "b": 3}] * 5


# -- whole searches ----------------------------------------------------------------------------------------


class Weights(pl.Callback):
    """Copies of weights and buffers at the end of each epoch, before or after what a search does there."""

    def __init__(self) -> None:
        self.copies: list[list[torch.Tensor]] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.copies.append([value.clone() for value in pl_module.state_dict().values()])
        assert pl_module.training


class WeightsAfter(Weights):
    """Lightning wants two callbacks to be of two classes."""


def test_a_search(tmp_path: Path) -> None:
    before, after = Weights(), WeightsAfter()
    supernet = Supernet(Small())
    search = ENAS(controller_steps=3, samples=2, **FEW).attach(supernet)
    module = Anything(supernet)
    trainer(tmp_path, before, search, after, max_epochs=2).fit(module, rows(4, 1), rows(3, 2))
    for weights, weights_after in zip(before.copies, after.copies, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(weights, weights_after, strict=True))
    assert len(search.records["reward"]) == 2
    assert all(0 < reward <= 1 for reward in search.records["reward"])
    assert len(search.ranking) == 3
    assert search.derive()[0] == search.ranking[0][1]
    assert module.seen == [float(x.flatten()[0]) for (x,) in rows(4, 1)] * 2


@pytest.mark.slow
def test_state_survives(tmp_path: Path) -> None:
    search, _ = searched(tmp_path, ENAS(controller_steps=2, samples=2, **FEW))
    other = ENAS(**FEW).attach(Supernet(Small()), seed=5)
    assert other.sample() is not None
    torch.save(search.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert str(other.state_dict()) == str(search.state_dict())
    assert other.derive() == search.derive()


def test_a_metric_to_minimise_is_a_negative_reward(tmp_path: Path) -> None:
    strategy = ENAS(controller_steps=1, samples=1, metric="val_loss", mode="min", **FEW)
    search, _ = searched(tmp_path, strategy)
    assert search.records["reward"][0] < 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 0}, "samples=0"),
        ({"temperature": 0.0}, "temperature=0.0 must be a number above 0"),
        ({"skip_target": 1.0}, "skip_target=1.0"),
        ({"baseline_decay": 1.5}, "baseline_decay=1.5"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        ENAS(**settings)
