"""Predictors and encodings against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import nn

from spacelang import Cell, ModelSpace, SpaceError
from spacelang.hub import NASBench101, NASBench201
from spacelang.strategies.multi_trial import Bananas
from spacelang.strategies.multi_trial.predictors import (
    BayesianRegression,
    CellLSTM,
    GraphNetwork,
    MLPEnsemble,
    Predictor,
    Regressor,
    Transferred,
    expected_improvement,
    one_hot,
    partial_one_hot,
    path_encoding,
    path_index,
    thompson,
    upper_confidence,
)
from spacelang.strategies.multi_trial.predictors.encoding import number_of_paths
from spacelang.strategies.multi_trial.predictors.gcn import _importance
from spacelang.strategies.multi_trial.predictors.lstm import _Network
from spacelang.strategies.multi_trial.predictors.mlp import mean_and_std
from spacelang.testing import toy_spaces
from spacelang.trials import History, Minimize, Trial

from ...toys.trials import Chain
from .drive import search

pytestmark = pytest.mark.slow

ENSEMBLE = np.array([[6, 5.5, 7], [6.4, 5.9, 6.6], [5.8, 5.1, 7.4], [6.2, 6.3, 6.8], [6.1, 5.7, 7.2]])
RNG = np.random.default_rng(0)


class TwoNodes(ModelSpace):
    """A cell of two inputs, two nodes, two slots and three operations."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        operations = {"conv": nn.Identity(), "pool": nn.Identity(), "skip": nn.Identity()}
        self.cell = Cell(operations, 2, 2, 2, label="cell", **settings)

    def forward(self, x: Any) -> Any:
        return self.cell(x, x)


def cell(*slots: tuple[str, int]) -> dict[str, Any]:
    places = ((2, 0), (2, 1), (3, 0), (3, 1))
    return {
        f"cell/{what}_{node}_{slot}": value
        for (node, slot), (op, source) in zip(places, slots, strict=True)
        for what, value in (("op", op), ("input", source))
    }


ARCH = cell(("conv", 0), ("pool", 1), ("skip", 2), ("conv", 1))


# -- encodings


def test_what_is_missing_is_zero() -> None:
    """One node of two: 2 * (3 operations + 2 inputs) of 2 * (3 + 2) + 2 * (3 + 3) features."""
    space = TwoNodes()
    part = {label: value for label, value in ARCH.items() if "_2_" in label}
    encoded = partial_one_hot(space)(part)
    assert encoded.shape == (22,)
    assert encoded.tolist()[:10] == one_hot(space)(ARCH).tolist()[:10]
    assert not encoded[10:].any()
    assert (partial_one_hot(space)(space.canonical(ARCH)) == one_hot(space)(ARCH)).all()


def test_paths_are_numbered() -> None:
    """NAS-Bench-101: three operations, up to five in a row."""
    assert path_index([1, 2, 0], 3) == 20
    assert path_index([], 3) == 0
    assert number_of_paths(3, 5) == 364
    import itertools

    paths = [p for length in range(6) for p in itertools.product(range(3), repeat=length)]
    assert sorted(path_index(p, 3) for p in paths) == list(range(364))


def on(encoded: Any) -> list[int]:
    return [int(i) for i in np.flatnonzero(encoded)]


def test_path_encoding_of_a_cell() -> None:
    """Input 0: conv, conv skip. Input 1: pool, pool skip, conv. There are 13 paths per input."""
    encoded = path_encoding(TwoNodes())(ARCH)
    assert encoded.shape == (26,)
    from_0 = [path_index([0], 3), path_index([0, 2], 3)]
    from_1 = [path_index([1], 3), path_index([1, 2], 3), path_index([0], 3)]
    assert on(encoded) == sorted([*from_0, *(13 + i for i in from_1)])


def test_paths_end_at_loose_ends() -> None:
    """Node 2 is read, so that its paths go on."""
    encoded = path_encoding(TwoNodes(merge_op="loose_end"))(ARCH)
    assert on(encoded) == [path_index([0, 2], 3), 13 + path_index([0], 3), 13 + path_index([1, 2], 3)]


def test_path_encoding_of_nasbench101() -> None:
    """input - conv1x1 - maxpool - conv3x3 - output, and the input to the output: paths 20 and 0 of 364."""
    space = NASBench101(width=4, num_cells=1, dataset=(1, 8, 3))
    arch = {
        "cell/num_vertices": 5,
        "cell/op_1": "conv1x1-bn-relu",
        "cell/op_2": "maxpool3x3",
        "cell/op_3": "conv3x3-bn-relu",
        "cell/input_1": [0],
        "cell/input_2": [1],
        "cell/input_3": [2],
        "cell/input_4": [0, 3],
    }
    encoded = path_encoding(space)(arch)
    assert encoded.shape == (364,)
    assert on(encoded) == [0, 20]
    assert not Bananas().unused_features(space)


def test_path_encoding_of_nasbench201() -> None:
    """0 - 3: convolution 3x3; 0 - 1 - 3: skip, pool; 0 - 2 is none, so that 2 - 3 and 1 - 2 - 3 differ."""
    space = NASBench201(width=2, num_cells=1, dataset=(1, 8, 3))
    arch = {
        "cell/0_1": "skip_connect",
        "cell/0_2": "none",
        "cell/1_2": "conv_1x1",
        "cell/0_3": "conv_3x3",
        "cell/1_3": "avg_pool_3x3",
        "cell/2_3": "none",
    }
    encoded = path_encoding(space)(arch)
    assert encoded.shape == (1 + 4 + 16 + 64,)  # four operations that are an edge
    assert on(encoded) == [3, 1 + 4 * 4]
    through = path_encoding(space)(arch | {"cell/2_3": "skip_connect"})
    assert on(through) == [3, 1 + 4 * 4, 1 + 4 * 2 + 16 * 1]


def test_long_paths_are_left_out() -> None:
    encoded = path_encoding(TwoNodes(), max_paths=12)(ARCH)
    assert encoded.shape == (8,)
    assert on(encoded) == [path_index([0], 3), 4 + path_index([0], 3), 4 + path_index([1], 3)]


def test_what_is_outside_cells_is_one_hot() -> None:
    for name, space in toy_spaces().items():
        arch = space.sample(np.random.default_rng(1))
        encoded, plain = path_encoding(space)(arch), one_hot(space)(arch)
        assert np.array_equal(plain, space.encode(arch))
        if name in ("Layers", "Inputs", "Depths", "Values"):
            assert np.array_equal(encoded, plain)


# -- acquisition; the numbers are for a value to be minimised


def test_mean_and_deviation_of_an_ensemble() -> None:
    mean, std = mean_and_std(ENSEMBLE)
    assert mean == pytest.approx([6.1, 5.7, 7])
    assert std == pytest.approx([0.2, 0.4, 0.28284271])


def test_upper_confidence() -> None:
    mean, std = mean_and_std(ENSEMBLE)
    assert -upper_confidence(-mean, std, 0, RNG) == pytest.approx([6, 5.5, 6.85857864])


def test_expected_improvement() -> None:
    mean, std = mean_and_std(ENSEMBLE)
    found = expected_improvement(-mean, std, -5.6, RNG)
    assert found == pytest.approx([0.00040083, 0.11453788, 1.977e-8], rel=1e-3)
    certain = expected_improvement(np.array([1.0, 3.0]), np.zeros(2), 2.0, RNG)
    assert certain.tolist() == [0, 1]


def test_thompson_draws_each_by_itself() -> None:
    mean, std = np.array([0.0, 5.0]), np.array([1.0, 0.0])
    draws = np.array([thompson(mean, std, 0, np.random.default_rng(i)) for i in range(400)])
    assert draws.mean(0) == pytest.approx([0, 5], abs=0.2)
    assert draws.std(0) == pytest.approx([1, 0], abs=0.1)


# -- Bayesian linear regression


def test_bayesian_regression() -> None:
    fitted = BayesianRegression.fit(np.array([[1.0, 0], [1, 1]]), np.array([1.0, 2]), alpha=1, beta=4)
    assert np.allclose(fitted.S * 29, [[5, -4], [-4, 9]])
    assert fitted.m == pytest.approx([28 / 29, 24 / 29])
    mean, variance = fitted.predict(np.array([[1, 0.5]]))
    assert (mean[0], variance[0]) == pytest.approx((1.37931034, 0.36206897))


def test_evidence_finds_the_noise() -> None:
    rng = np.random.default_rng(0)
    Phi = rng.normal(size=(400, 3))
    y = Phi @ np.array([2.0, -1.0, 0.5]) + rng.normal(scale=0.3, size=400)
    fitted = BayesianRegression.fit_evidence(Phi, y)
    assert fitted.beta**-0.5 == pytest.approx(0.3, rel=0.1)
    assert fitted.m == pytest.approx([2, -1, 0.5], abs=0.06)


def test_evidence_of_values_that_say_nothing() -> None:
    for Phi, y in ((np.zeros((3, 2)), np.ones(3)), (np.ones((1, 4)), np.zeros(1))):
        mean, variance = BayesianRegression.fit_evidence(Phi, y).predict(np.ones((2, Phi.shape[1])))
        assert np.isfinite(mean).all()
        assert (variance > 0).all()


# -- predictors


def count_of_convs(arch: dict[str, Any]) -> float:
    return 50 + 10 * sum(value == "conv" for value in arch.values())


def gaussian_process(space: ModelSpace) -> Predictor:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF

    process = GaussianProcessRegressor(RBF(3.0), alpha=1e-2, optimizer=None, normalize_y=True)
    return Regressor(process, space.encode)


def forest(space: ModelSpace) -> Predictor:
    from sklearn.ensemble import RandomForestRegressor

    return Regressor(RandomForestRegressor(30), space.encode)


def ridge(space: ModelSpace) -> Predictor:
    from sklearn.linear_model import Ridge

    return Regressor(Ridge(), space.encode)


def mlp(space: ModelSpace) -> Predictor:
    return MLPEnsemble(space.encode)


def lstm(space: ModelSpace) -> Predictor:
    return CellLSTM(space, members=2, width=16, epochs=40)


def mlp_in_batches(space: ModelSpace) -> Predictor:
    return MLPEnsemble(space.encode, epochs=60, batch_size=32)


def test_batches_hold_every_row_once_in_an_order_of_each_network() -> None:
    batches = MLPEnsemble(len, members=3, batch_size=4)._batches(10, torch.Generator().manual_seed(0))
    assert [tuple(rows.shape) for rows in batches] == [(3, 4), (3, 4), (3, 2)]
    orders = torch.cat(list(batches), dim=1).tolist()
    assert [sorted(order) for order in orders] == [list(range(10))] * 3
    assert len({tuple(order) for order in orders}) == 3


MAKERS = [mlp, mlp_in_batches, lstm, GraphNetwork, gaussian_process, forest, ridge]


@pytest.mark.parametrize("make", MAKERS)
def test_predictors_learn_and_draw_from_their_generator(make: Any) -> None:
    space = TwoNodes()
    rng = np.random.default_rng(0)
    archs = [space.sample(rng) for _ in range(90)]
    values = np.array([count_of_convs(arch) for arch in archs])
    first = make(space)
    predictions = []
    for predictor in (first, make(space), first):  # the last forgets what it has learned
        predictor.fit(archs[60:], -values[60:], np.random.default_rng(9))
        predictor.fit(archs[:60], values[:60], np.random.default_rng(5))
        predictions.append(predictor.predict(archs[60:]))
    (mean, std), *others = predictions
    assert all(np.array_equal(mean, m) and np.array_equal(std, s) for m, s in others)
    assert mean.shape == std.shape == (30,)
    assert (std >= 0).all()
    assert np.corrcoef(mean, values[60:])[0, 1] > 0.7
    assert np.abs(mean - values[60:]).mean() < 8  # their standard deviation is 9.4
    if make is not ridge:
        assert (std > 0).any()


@pytest.mark.parametrize("make", [make for make in MAKERS if make is not lstm])  # which reads cells alone
def test_one_architecture_and_equal_values(make: Any) -> None:
    for space in toy_spaces().values():
        archs = [space.sample(np.random.default_rng(i)) for i in range(3)]
        predictor = make(space)
        for count in (1, 3):
            predictor.fit(archs[:count], np.full(count, 7.0), np.random.default_rng(0))
            mean, std = predictor.predict(archs)
            assert mean == pytest.approx([7, 7, 7], abs=0.5), type(space)
            assert np.isfinite(std).all()


def test_a_graph_network_sees_every_decision() -> None:
    """Architectures that differ are embedded differently, whatever kind of decision they differ in."""
    for name, space in toy_spaces().items():
        arch = space.default()
        others = list(space.neighbours(arch))
        network = GraphNetwork(space)
        network.fit([arch, *others], np.arange(len(others) + 1.0), np.random.default_rng(0))
        embedded = network._embedded([arch, *others])
        assert all(not np.allclose(embedded[0], row) for row in embedded[1:]), name


def test_a_graph_network_predicts_alone_as_in_a_batch() -> None:
    space = toy_spaces()["Depths"]  # their graphs differ in size
    archs = list(space.grid())
    network = GraphNetwork(space)
    network.fit(archs, np.arange(float(len(archs))), np.random.default_rng(0))
    together = network.predict(archs)[0]
    assert [network.predict([arch])[0][0] for arch in archs] == pytest.approx(together, abs=1e-4)


def test_shared_beginnings_are_read_once_with_the_same_result() -> None:
    """As torch's LSTM reads every row by itself; rows of 1 to 8 tokens out of three, so many begin alike."""
    torch.manual_seed(0)
    network, lstm = _Network(3, 16), nn.LSTM(16, 16, batch_first=True)
    lstm.load_state_dict({f"{name}_l0": value for name, value in network.cell.state_dict().items()})
    tokens, lengths = torch.randint(0, 3, (200, 8)), torch.randint(1, 9, (200,))
    states, _ = lstm(network.embedding(tokens))
    expected = network.last(states[torch.arange(200), lengths - 1]).squeeze(1).sigmoid()
    torch.testing.assert_close(network(tokens, lengths), expected)


def test_good_architectures_weigh_more() -> None:
    import torch

    weights = _importance(torch.tensor([[0.0], [5.0], [10.0]]))
    assert (weights[2] / weights[0]).item() == pytest.approx(np.e)
    assert weights.mean().item() == pytest.approx(1)
    assert torch.equal(_importance(torch.ones(3, 1)), torch.ones(3, 1))


def test_global_generators_are_left_alone() -> None:
    import torch

    space = TwoNodes()
    archs = [space.sample(np.random.default_rng(i)) for i in range(5)]
    before = torch.get_rng_state()
    for make in (mlp, GraphNetwork):
        make(space).fit(archs, np.arange(5.0), np.random.default_rng(0))  # type: ignore[operator]
    assert torch.equal(before, torch.get_rng_state())


def test_what_is_no_regressor() -> None:
    with pytest.raises(SpaceError, match=r"needs a scikit-learn regressor, such as Ridge\(\); got 3"):
        Regressor(3, TwoNodes().encode)


# -- results of another search


class Remembering:
    """A predictor that keeps what it was given, and predicts one standard deviation above the mean."""

    def fit(self, archs: Any, values: Any, rng: np.random.Generator) -> None:
        self.archs, self.values = list(archs), list(values)

    def predict(self, archs: Any) -> Any:
        return np.ones(len(archs)), np.full(len(archs), 0.5)


def test_known_results_are_on_a_scale_of_their_own() -> None:
    """Accuracies (.1, .3) are -1 and 1, as own values (60, 80) are; predictions are 70 + 10 * 1."""
    space, rng = TwoNodes(), np.random.default_rng(0)
    archs = [space.sample(rng) for _ in range(4)]
    inner = Remembering()
    predictor = Transferred(inner, zip(archs[:2], (0.1, 0.3), strict=True), space)
    predictor.fit(archs[2:], np.array([60.0, 80.0]), rng)
    assert inner.archs == [space.canonical(arch) for arch in archs]
    assert inner.values == pytest.approx([-1, 1, -1, 1])
    mean, std = predictor.predict(archs[:1])
    assert (mean.tolist(), std.tolist()) == ([80], [5])


def test_known_results_may_be_a_history_to_minimise() -> None:
    """The smaller loss is the better; failed and NaN trials are left out."""
    space, rng = TwoNodes(), np.random.default_rng(0)
    archs = [space.sample(rng) for _ in range(4)]
    history = History(space.decision_space, [Minimize("loss")])
    for number, loss in enumerate((0.2, 0.6, float("nan"))):
        history.add(Trial(number, archs[number], 0, "done", metrics={"loss": loss}))
    history.add(Trial(3, archs[3], 0, "failed"))
    inner = Remembering()
    Transferred(inner, history, space).fit(archs[3:], np.array([1.0]), rng)
    assert inner.values == pytest.approx([1, -1, 0])
    for known in ([], [(archs[0], float("inf"))]):
        with pytest.raises(SpaceError, match="expected at least one, and finite values"):
            Transferred(inner, known, space)


def test_another_task_shows_the_way() -> None:
    """Of 27 architectures the best has 6; known results on another scale put it first of all."""
    space = Chain(3)
    value = {"one": 0.0, "two": 1.0, "three": 2.0}
    rng = np.random.default_rng(0)
    known = [
        (a, 0.9 + 0.01 * sum(value[v] for v in a.values())) for a in (space.sample(rng) for _ in range(15))
    ]

    def guided(model_space: Any) -> Transferred:
        return Transferred(Regressor(Ridge(), model_space.encode), known, model_space)

    history = search(
        Bananas(initial=1, round_size=2, candidates=27, predictor=guided, acquisition=upper_confidence),
        space,
        lambda trial: {"value": 100 * sum(value[v] for v in trial.arch.values())},
        3,
    )
    assert max(trial.metrics["value"] for trial in list(history)[1:]) == 600
