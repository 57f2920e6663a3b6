"""NAO and SemiNAS: tokens, networks and steps of the authors' code, and their searches."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from spacelang import ModelSpace, SpaceError, value_choice, value_range
from spacelang import nn as space_nn
from spacelang.hub import DARTS, ENAS, NASBench101, from_nasbench101
from spacelang.language import Architecture
from spacelang.strategies import NAO, SemiNAS
from spacelang.strategies.multi_trial.predictors import (
    DecisionTokens,
    GraphTokens,
    NAONetwork,
    SemiNASNetwork,
    SequencePredictor,
    min_max,
    moved,
    nasbench101_scaling,
    pairwise_accuracy,
    token_encoding,
)
from spacelang.testing import check_strategy, toy_spaces
from spacelang.trials import History, Trial, key_of

from ...toys.trials import Chain
from . import drive

VALUE = {"one": 0.0, "two": 1.0, "three": 2.0}


def measured(trial: Trial) -> dict[str, float]:
    return {"value": sum(VALUE[value] for value in trial.arch.values())}


def small(network: Any = NAONetwork, epochs: int = 2, **settings: Any) -> Any:
    """A predictor that learns in no time."""
    return partial(SequencePredictor, network=partial(network, hidden=8), copies=1, epochs=epochs, **settings)


# -- tokens


def test_tokens_of_a_cell() -> None:
    """The authors' space has five operations and five nodes; input i is i + 1, operation o is o + 7."""
    space = ENAS(width=4, num_cells=3)
    tokens = DecisionTokens(space)
    assert (tokens.vocabulary, tokens.group, len(tokens.legal)) == (12, 2, 40)
    for place, legal in enumerate(tokens.legal):
        inputs = range(1, place // 2 % 10 // 2 + 3)
        assert legal == (list(inputs) if place % 2 == 0 else [7, 8, 9, 10, 11])
    cell = [[(0, 2), (1, 0)], [(1, 3), (2, 4)], [(0, 1), (0, 1)], [(4, 0), (3, 2)], [(5, 4), (0, 3)]]
    operations = space.decision_space.by_label["normal/op_2_0"].candidates
    arch = dict(space.default())
    for node, slots in enumerate(cell, start=2):
        for k, (source, operation) in enumerate(slots):
            arch |= {f"normal/input_{node}_{k}": source, f"normal/op_{node}_{k}": operations[operation]}
    written = tokens.encode(arch)
    assert written[:20] == [1, 9, 2, 7, 2, 10, 3, 11, 1, 8, 1, 8, 5, 7, 4, 9, 6, 11, 1, 10]
    assert tokens.decode(written) == space.canonical(arch)


def test_tokens_of_a_graph() -> None:
    """Edges 0-1 0-2 0-4 1-2 2-3 3-4 between input, conv3x3, maxpool, conv1x1 and output."""
    space = NASBench101(width=4, num_cells=1, dataset=(1, 8, 3))
    tokens = token_encoding(space)
    matrix = [[0, 1, 1, 0, 1], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1], [0] * 5]
    names = ["input", "conv3x3-bn-relu", "maxpool3x3", "conv1x1-bn-relu", "output"]
    arch = from_nasbench101(matrix, names)
    written = tokens.encode(space.canonical(arch))
    assert isinstance(tokens, GraphTokens)
    assert written == [2, 4, 2, 2, 5, 1, 1, 2, 3, 2, 1, 1, 2, 6, *[0] * 13]
    assert [place for place, legal in enumerate(tokens.legal) if legal[0] == 3] == [1, 4, 8, 13, 19, 26]
    assert tokens.vocabulary == 7
    assert tokens.decode(written) == space.canonical(arch)
    assert tokens.decode([*written[:14], *[2] * 13]) == space.canonical(arch)  # after the output
    assert tokens.decode([1 if place not in (1, 4, 8, 13, 19, 26) else 3 for place in range(27)]) is None


@pytest.mark.parametrize("space", toy_spaces().values(), ids=toy_spaces())
def test_what_is_written_can_be_read(space: ModelSpace) -> None:
    tokens, rng = token_encoding(space), np.random.default_rng(0)
    for _ in range(20):
        arch = space.sample(rng)
        written = tokens.encode(arch)
        assert tokens.decode(written) == arch
        assert tokens.decode(tokens.rewritten(written, rng)) == arch
        pairs = zip(written, tokens.legal, strict=True)
        assert all(token in legal or token == 0 for token, legal in pairs)


def test_a_copy_exchanges_the_slots_of_one_node_of_each_cell() -> None:
    space = DARTS(width=4, num_cells=3)
    tokens, rng = DecisionTokens(space), np.random.default_rng(0)
    arch = space.sample(rng)
    written = tokens.encode(arch)
    changed = tokens.rewritten(written, rng)
    nodes = [place // 4 for place in range(len(written)) if written[place] != changed[place]]
    assert sorted({node // 4 for node in nodes}) == [0, 1]
    assert len(set(nodes)) == 2
    assert sorted(written) == sorted(changed)


class Ranges(ModelSpace):
    """Two ranges, one of them in steps, and a choice."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = space_nn.Dropout(value_range(0.0, 0.75, label="dropout"))
        self.rate = value_range(1e-4, 1e-1, log=True, label="rate")
        self.kernel = value_range(1, 7, step=2, label="kernel")
        self.width = value_choice([4, 8], label="width")


def test_a_range_is_written_as_the_nearest_of_16_numbers() -> None:
    space = Ranges()
    tokens = token_encoding(space)
    assert [len(legal) for legal in tokens.legal] == [16, 4, 2, 16]  # rate, kernel, width, dropout
    assert tokens.vocabulary == 1 + 16 + 4 + 2 + 16
    arch = {"rate": 1e-2, "kernel": 5, "width": 8, "dropout": 0.52}
    decoded = tokens.decode(tokens.encode(arch))
    assert decoded == {
        "rate": pytest.approx(1e-2), "kernel": 5, "width": 8, "dropout": pytest.approx(0.5)
    }  # fmt: skip
    assert tokens.encode(decoded) == tokens.encode(arch)
    near = tokens.decode(tokens.encode(arch | {"rate": 1.2e-2, "dropout": 0.53}))
    assert near is not None
    assert near["dropout"] == pytest.approx(0.55)  # steps of 0.05
    assert near["rate"] == pytest.approx(1e-2)  # steps of a fifth of a power of ten


@pytest.mark.parametrize("strategy", [NAO, SemiNAS])
def test_ranges_are_searched(strategy: type[NAO]) -> None:
    settings = {"guesses": 8, "epochs": 1} if strategy is SemiNAS else {}
    network = SemiNASNetwork if strategy is SemiNAS else NAONetwork
    search = strategy(initial=6, round_size=4, parents=3, predictor=small(network), **settings)
    space = Ranges()
    history = drive.search(search, space, lambda trial: {"value": -trial.arch["dropout"]}, 10)
    for trial in history.done:
        space.validate(trial.arch)
    grid = set(Ranges().decision_space.by_label["dropout"].points(16))
    later = [trial.arch["dropout"] in grid for trial in history.done]
    assert later[:6] == [False] * 6
    assert any(later[6:])


# -- networks


@pytest.mark.parametrize(
    ("network", "count"),
    [(NAONetwork(12, 2), 80_845), (NAONetwork(14, 2), 81_167), (SemiNASNetwork(7), 123_928)],
)
def test_networks_have_the_parameters_of_the_authors(network: Any, count: int) -> None:
    assert sum(parameter.numel() for parameter in network.parameters()) == count


def test_a_step_by_hand() -> None:
    """Values to be made smaller, step 2."""
    outputs = torch.tensor([[[0.6, 0.8], [1.0, 0.0]]], dtype=torch.float64)
    gradient = torch.tensor([[[0.1, -0.2], [0.05, 0.3]]], dtype=torch.float64)
    after = moved(outputs, gradient, -2.0)
    expected = torch.tensor([[[0.31622777, 0.94868330], [0.83205029, -0.55470020]]], dtype=torch.float64)
    torch.testing.assert_close(after, expected, atol=1e-8, rtol=0)
    embedding = NAONetwork(12).embedding(after)
    expected = torch.tensor([[0.94587320, 0.32453643]], dtype=torch.float64)
    torch.testing.assert_close(embedding, expected, atol=1e-8, rtol=0)


@pytest.mark.parametrize("network", [NAONetwork, SemiNASNetwork])
def test_a_decoder_writes_as_it_learns(network: Any) -> None:
    """One token after another it finds the probabilities that it has for all of them at once."""
    torch.manual_seed(0)
    net = network(7, hidden=8).double().eval()
    tokens = torch.tensor([[2, 4, 1], [1, 6, 2]])
    outputs = net.outputs(tokens)
    torch.testing.assert_close(outputs.norm(dim=2), torch.ones(2, 3, dtype=torch.float64))
    written = net.written(outputs, [range(1, 7)] * 3)
    log_p = net.decoder(written, outputs, net.embedding(outputs))
    assert (log_p[:, :, 1:].argmax(dim=2) + 1 == written).all()
    step = 1e-6
    raised = net.values(outputs + step * net.gradient(outputs)) - net.values(outputs)
    length = net.gradient(outputs).square().sum(dim=(1, 2))
    torch.testing.assert_close(raised / step, length, atol=1e-6, rtol=1e-4)


def test_targets_and_measures_by_hand() -> None:
    values = np.array([0.91, 0.935, 0.92, 0.95])
    assert min_max(values)[0].tolist() == pytest.approx([0, 0.625, 0.25, 1])
    assert min_max(np.ones(2))[0].tolist() == [0, 0]
    assert nasbench101_scaling(np.array([0.93, 0.945]))[0].tolist() == pytest.approx(
        [0.9101330913, 1.5361503694]
    )
    assert pairwise_accuracy(list(values), [0.1, 0.6, 0.7, 0.65]) == pytest.approx(4 / 6)


@pytest.mark.slow
def test_a_predictor_learns_values_and_tokens() -> None:
    space, rng = Chain(4), np.random.default_rng(0)
    archs = [space.sample(rng) for _ in range(40)]
    values = np.array([measured(Trial(0, arch, 0))["value"] for arch in archs])
    predictor = SequencePredictor(space, copies=4, epochs=60)
    predictor.fit(archs, values, rng)
    assert pairwise_accuracy(list(values), list(predictor.predict(archs)[0])) > 0.8
    found = list(predictor.improved(archs[:5], 30))
    total = [measured(Trial(0, arch, 0))["value"] for arch in found]
    assert np.mean(total[-5:]) > np.mean(values[:5]) + 1


# -- searches


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy",
    [
        NAO(initial=4, round_size=6, parents=4, max_step=2, predictor=small(NAONetwork)),
        SemiNAS(initial=4, round_size=6, parents=4, max_step=2, guesses=3, epochs=1,
                predictor=small(SemiNASNetwork)),
    ],
    ids=["NAO", "SemiNAS"],
)  # fmt: skip
def test_it_keeps_the_promises_of_a_strategy(strategy: Any) -> None:
    check_strategy(strategy, trials=11)


class Scripted(SequencePredictor):
    """A predictor that knows the answer, and writes architectures in an order that is known."""

    def __init__(self, space: ModelSpace) -> None:
        super().__init__(space)
        self.space = space
        self.calls: list[tuple[Any, ...]] = []
        self.parents: list[list[str]] = []

    def begin(self, rng: np.random.Generator) -> None:
        self.calls.append(("begin",))

    def learn(
        self,
        archs: Sequence[Architecture],
        values: Any,
        rng: np.random.Generator,
        *,
        guessed: Any = ((), ()),
        epochs: int | None = None,
    ) -> None:
        self.calls.append(("learn", len(archs), len(guessed[0]), epochs))
        self.known = [*archs, *guessed[0]]

    def predict(self, archs: Sequence[Architecture]) -> tuple[Any, Any]:
        values = [sum(VALUE[v] for v in arch.values()) for arch in archs]
        return np.array(values), np.zeros(len(archs))

    def improved(self, archs: Sequence[Architecture], steps: int) -> Any:
        self.parents.append([key_of(arch) for arch in archs])
        return iter(sorted(self.space.decision_space.grid(), key=lambda arch: -self.predict([arch])[0][0]))


def scripted(strategy: Any, trials: int, **settings: Any) -> tuple[History, Scripted]:
    predictors: list[Scripted] = []

    def make(space: ModelSpace) -> Scripted:
        predictors.append(Scripted(space))
        return predictors[-1]

    history = drive.search(strategy(predictor=make, **settings), Chain(4), measured, trials)
    return history, predictors[0]


def test_nao_tries_what_is_written_and_new_and_carries_its_weights() -> None:
    history, predictor = scripted(NAO, 12, initial=4, round_size=3, parents=2)
    assert predictor.calls == [
        ("begin",),
        ("learn", 4, 0, None),
        ("learn", 7, 0, None),
        ("learn", 10, 0, None),
    ]
    assert len({key_of(trial.arch) for trial in history}) == 12
    best = [key_of(trial.arch) for trial in history.of(list(history)[:4]).ranked(2)]
    assert predictor.parents[0] == best
    assert history[4].metrics["value"] == 8.0


def test_seminas_learns_from_guesses_and_begins_at_the_best_of_both() -> None:
    _, predictor = scripted(SemiNAS, 5, initial=4, round_size=3, parents=3, guesses=60, epochs=7)
    begin, first, second = predictor.calls
    assert (begin, first) == (("begin",), ("learn", 4, 0, None))
    assert second[:2] == ("learn", 4)
    assert 20 < second[2] <= 60
    assert second[3] == 7
    best = sorted(predictor.known, key=lambda arch: -predictor.predict([arch])[0][0])
    assert predictor.parents == [[key_of(arch) for arch in best[:3]]]


@pytest.mark.parametrize("kind", [NAO, SemiNAS])
def test_refusals(kind: Any) -> None:
    with pytest.raises(SpaceError, match="parents=0 must be an integer of at least 1"):
        kind(parents=0)
    assert kind.authors(initial=7).initial == 7
