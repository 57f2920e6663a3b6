"""EAS: rewards by hand, tokens and masks, the gradient, parents and stages."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spacelang import Experiment, SpaceError, value_choice
from spacelang.hub import PlainCNN
from spacelang.models import BlockOptions, Layer
from spacelang.strategies import EAS
from spacelang.strategies.multi_trial.eas import Growth, GrowthController, advantages_of, tangent
from spacelang.testing import check_strategy
from spacelang.trials import Exhausted, Trial

from ...toys.trials import Chain
from .drive import search

OPTIONS = (
    BlockOptions((4, 8), (1, 3), 2),
    BlockOptions((4, 8), (1, 3), 3),
    BlockOptions((8, 16), (None,), 2),
)
BLOCKS = ((Layer(4, 3),), (Layer(8, 1), Layer(4, 3)), (Layer(8),))


def space(**settings: Any) -> PlainCNN:
    given: dict[str, Any] = {"num_blocks": 2, "max_layers": 3, "widths": (4, 8, 12), "hidden": (8, 16)}
    return PlainCNN((1, 8, 3), **(given | {"max_hidden_layers": 2} | settings))


def controller(seed: int = 0) -> GrowthController:
    return GrowthController(OPTIONS, 4, 3, torch.Generator().manual_seed(seed)).double()


def growth(blocks: Any = BLOCKS, seed: int = 0, given: Any = ()) -> Growth:
    return Growth(controller(), blocks, torch.Generator().manual_seed(seed), given)


def test_rewards_and_advantages_by_hand() -> None:
    """Episodes of accuracies (.8, .9) and (.85, .88)."""
    first = [tangent(0.8), tangent(0.9)]
    assert first == pytest.approx([3.07768354, 6.31375151], abs=1e-8)
    baseline, advantages = advantages_of(first, 0.0, 0.95)
    assert baseline == pytest.approx(4.4609316496, abs=1e-9)
    assert advantages == pytest.approx([-1.3832481124, 1.8528198650], abs=1e-9)
    second = [tangent(0.85), tangent(0.88)]
    assert second == pytest.approx([4.16529977, 5.24218358], abs=1e-8)
    baseline, advantages = advantages_of(second, baseline, 0.95)
    assert baseline == pytest.approx(4.6916011743, abs=1e-9)
    assert advantages == pytest.approx([-0.5263014042, 0.5505824068], abs=1e-9)


def test_rewards_of_accuracies_alone() -> None:
    assert tangent(1.0) == tangent(0.999) == pytest.approx(math.tan(0.999 * math.pi / 2))
    with pytest.raises(SpaceError, match=r"accuracies from 0 to 1; got 87\.5"):
        tangent(87.5)


def test_tokens() -> None:
    """Convolutions by width and kernel, linear layers by width, and pools between blocks."""
    net = controller()
    assert net.sequence(BLOCKS) == [Layer(4, 3), "pool", Layer(8, 1), Layer(4, 3), "pool", Layer(8)]
    assert len(net.tokens) == 1 + 2 * 2 + 2
    outputs, (h, c) = net.encode(BLOCKS)
    assert outputs.shape == (4, 6)  # the layers alone
    assert h.shape == c.shape == (1, 6)


def test_sizes_of_the_authors() -> None:
    """Embedding 16, LSTM 50 in each direction, one output of the wider actor; the deeper actor has 100."""
    settings = EAS()
    net = GrowthController(
        PlainCNN().options, settings.embedding, settings.hidden, torch.Generator().manual_seed(0)
    )
    assert len(net.tokens) == 10 * 3 + 10 + 1
    assert sum(p.numel() for p in net.encoder.parameters()) == 2 * (4 * 50 * (16 + 50) + 2 * 4 * 50)
    assert sum(p.numel() for p in net.wider.parameters()) == 101
    assert sum(p.numel() for p in net.deeper.parameters()) == 4 * 100 * (100 + 100) + 2 * 4 * 100
    assert (net.block.out_features, net.layer.out_features, net.kernel.out_features) == (5, 10, 3)
    defaults = (settings.batch, settings.wider_actions, settings.deeper_actions, settings.learning_rate)
    assert (*defaults, settings.baseline_step, settings.entropy_weight) == (10, 4, 5, 2e-3, 0.95, 1e-5)


def test_wider_layers_are_drawn_one_by_one() -> None:
    """Each with the sigmoid of its output; what has its largest width is not asked."""
    net = controller()
    walk = Growth(net, BLOCKS, given=[1, 0, 1])  # of four layers the second is at its largest
    walk.widen()
    assert walk.blocks == ((Layer(8, 3),), (Layer(8, 1), Layer(4, 3)), (Layer(16),))
    p = net.wider(net.encode(BLOCKS)[0])[:, 0].sigmoid()
    expected = p[0].log() + (1 - p[2]).log() + p[3].log()
    torch.testing.assert_close(walk.log_prob.double(), expected, rtol=0, atol=1e-6)
    asked = p[[0, 2, 3]]
    entropy = -(asked * asked.log() + (1 - asked) * (1 - asked).log()).sum()
    torch.testing.assert_close(walk.entropy.double(), entropy, rtol=0, atol=1e-6)


def test_a_deeper_layer_by_hand() -> None:
    """Block, place and kernel from the encoder's last state; the new layer is as wide as the one before."""
    net = controller()
    walk = Growth(net, BLOCKS, given=[1, 0, 1])
    walk.deepen()
    assert walk.blocks == ((Layer(4, 3),), (Layer(8, 1), Layer(8, 3), Layer(4, 3)), (Layer(8),))
    state = net.deeper(net.first, net.encode(BLOCKS)[1])
    log_p = net.block(state[0])[0].log_softmax(0)[1]
    state = net.deeper(net.block_embedding.weight[1:2], state)
    log_p = log_p + net.layer(state[0])[0][:2].log_softmax(0)[0]  # the block has two layers
    state = net.deeper(net.layer_embedding.weight[0:1], state)
    log_p = log_p + net.kernel(state[0])[0].log_softmax(0)[1]
    torch.testing.assert_close(walk.log_prob.double(), log_p, rtol=0, atol=1e-6)


def test_linear_layers_have_no_kernel_and_full_blocks_are_not_drawn() -> None:
    walk = Growth(controller(), BLOCKS, given=[2, 0])
    walk.deepen()
    assert walk.blocks[2] == (Layer(8), Layer(8))
    full = ((Layer(4, 3),) * 2, (Layer(8, 1),) * 2, (Layer(8),) * 2)
    for seed in range(5):
        walk = growth(full, seed)
        walk.deepen()
        assert [len(block) for block in walk.blocks] == [2, 3, 2]
        walk.deepen()  # nothing is left
        assert len(walk.draws) == 3


def test_probabilities_sum_to_one() -> None:
    """Over all ways to insert a layer: two places of the first kind, two of the second, one linear."""
    ways = [(0, 0, 0), (0, 0, 1), *((1, k, s) for k in (0, 1) for s in (0, 1)), (2, 0)]
    total = 0.0
    for way in ways:
        walk = Growth(controller(), BLOCKS, given=way)
        walk.deepen()
        total += math.exp(float(walk.log_prob.detach()))
    assert total == pytest.approx(1, abs=1e-6)


def accuracy(trial: Trial) -> dict[str, float]:
    """Deeper and wider is better."""
    blocks = space().blocks_of(trial.arch)
    return {"value": min(0.9, 0.1 + sum(layer.width for block in blocks for layer in block) / 200)}


def test_the_gradient_by_hand() -> None:
    """A step of Adam on -mean(log pi * advantage + 1e-5 entropy), from the notes of an episode."""
    settings = EAS(batch=2, wider_actions=1, deeper_actions=1, embedding=4, hidden=3)
    proposer: Any = settings.start(space())
    history = search(settings, space(), accuracy, 3)
    proposer.ask(history, np.random.default_rng(0))
    policy = proposer.inner._policy
    fresh = GrowthController(space().options, 4, 3, torch.Generator())
    seeded: Any = settings.start(space())
    seeded.ask(history.of([history[0]]), np.random.default_rng(0))
    fresh.load_state_dict(seeded.inner._policy.controller.state_dict())
    trials = [history[1], history[2]]
    rewards = [tangent(history.score(trial)) for trial in trials]
    baseline = 0.95 * sum(rewards) / 2
    loss = torch.zeros(())
    for trial, reward in zip(trials, rewards, strict=True):
        walk = Growth(fresh, space().blocks_of(history[0].arch), given=trial.note["inner"]["draws"])
        walk.widen()
        walk.deepen()
        loss = loss - ((reward - baseline) * walk.log_prob + 1e-5 * walk.entropy) / 2
    loss.backward()
    torch.optim.Adam(fresh.parameters(), lr=2e-3).step()
    for mine, theirs in zip(fresh.parameters(), policy.controller.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_parents_and_stages() -> None:
    """The first network is the parent until a stage ends; then the best so far is."""
    settings = EAS(batch=2, stage=3, wider_actions=1, deeper_actions=1, embedding=4, hidden=4)
    history = search(settings, space(), accuracy, 8)
    assert history[0].arch == space().default()
    parents = [history[number].note.get("parent") for number in range(8)]
    best = max(range(4), key=lambda number: (accuracy(history[number])["value"], -number))
    assert parents[:4] == [None, 0, 0, 0]
    assert parents[4:7] == [best] * 3
    small = EAS(batch=2, wider_actions=1, deeper_actions=1, embedding=4, hidden=4)
    assert search(small, space(), accuracy, 6)[5].note["parent"] == 0


def test_a_network_that_is_drawn_again_repeats_its_value() -> None:
    """The controller learns from repetitions; the history has each network once, and the parent of each."""
    settings = EAS(batch=2, wider_actions=1, deeper_actions=0, embedding=4, hidden=4)
    trained: list[str] = []

    def measure(trial: Trial) -> dict[str, float]:
        trained.append(str(trial.arch))
        return accuracy(trial)

    history = search(settings, space(), measure, 6)
    assert len(set(trained)) == len(trained) == 6
    values = {str(trial.arch): trial.metrics for trial in history}
    repeated = [entry for trial in history for entry in trial.note["passed_over"]]
    assert repeated
    assert all(entry["metrics"] == values[str(entry["arch"])] for entry in repeated)
    assert all("draws" in entry["note"] for entry in repeated)
    assert [trial.note.get("parent") for trial in history] == [None, 0, 0, 0, 0, 0]
    proposer: Any = settings.start(space())  # a new one, as after an interruption
    again = proposer.ask(history, np.random.default_rng((0, 6)))
    assert len(proposer.view) == len(history) + len(repeated) + len(again.note["passed_over"])
    assert proposer.inner._policy._next == 1 + 2 * ((len(proposer.view) - 1) // 2)  # batches of view's trials


def test_nothing_grows_before_the_first_network_is_trained() -> None:
    history = search(EAS(), space(), accuracy, 1, workers=2)
    running = history.of([Trial(0, history[0].arch, 0, "running", note=history[0].note)])
    with pytest.raises(Exhausted, match="that of trial 0, which is running"):
        EAS().start(space()).ask(running, np.random.default_rng(0))


def test_it_learns() -> None:
    """Where wide layers are rewarded the controller comes to widen them, here with repetitions as trials."""
    settings = EAS(batch=5, wider_actions=1, deeper_actions=0, learning_rate=0.05, embedding=4, hidden=4)

    class Bare:
        def start(self, space: Any) -> Any:
            proposer: Any = settings.start(space)
            return proposer.inner

    history = search(Bare(), space(), lambda t: {"value": accuracy(t)["value"] * 2}, 61)
    widths = [sum(x.width for b in space().blocks_of(t.arch) for x in b) for t in history]
    assert np.mean(widths[-10:]) > np.mean(widths[1:11])
    assert np.mean(widths[-10:]) > 0.95 * (8 + 8 + 16)  # of at most 32


def test_promises() -> None:
    strategy = EAS(batch=3, stage=8, wider_actions=2, deeper_actions=2, reward=None, embedding=4, hidden=4)
    assert check_strategy(strategy, trials=14, spaces={"PlainCNN": space()}).searched == ("PlainCNN",)


class Trains:
    """One step of gradient descent; the metric is the first output before it."""

    def evaluate(self, model: Any, report: Any = None) -> dict[str, float]:
        x = torch.ones(4, 1, 8, 8)
        value = float(model.eval()(x)[0, 0].detach())
        model.train()(torch.rand(4, 1, 8, 8)).square().mean().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.01 * parameter.grad
        return {"default": 0.5 + value / 100}


def test_trials_inherit_and_a_search_resumes(tmp_path: Path) -> None:
    def run(name: str, trials: int) -> Experiment:
        settings = EAS(batch=2, wider_actions=1, deeper_actions=1, embedding=4, hidden=4)
        experiment = Experiment(
            space(),
            Trains(),
            settings,
            directory=tmp_path / name,
            max_trials=trials,
            inherit="parent",
            seed=1,
        )
        experiment.run(resume=True)
        return experiment

    whole = run("whole", 6)
    run("parts", 3)
    parts = run("parts", 6)
    assert [(t.arch, t.metrics) for t in parts.history] == [(t.arch, t.metrics) for t in whole.history]


def test_misuse() -> None:
    with pytest.raises(SpaceError, match=r"Chain is not a LayeredSpace; hub\.PlainCNN is one"):
        EAS().start(Chain())
    rate = value_choice([0.1, 0.01], label="rate")
    with pytest.raises(SpaceError, match="PlainCNN also decides 'rate'"):
        EAS().start(space().joined(rate.decisions()))
    with pytest.raises(SpaceError, match=r"baseline_step=0 must be"):
        EAS(baseline_step=0)
