"""SETN and the comparison of likely architectures."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from spacelang import Experiment, SpaceError, Supernet
from spacelang.files import load_yaml
from spacelang.strategies import DARTS, SETN, Judge, Moment, RandomOneShot, top_architectures
from spacelang.strategies.framework.judge import perturbed
from spacelang.testing import toy_spaces
from spacelang.testing.toy_evaluators import Fit


def test_weights_are_trained_on_one_uniform_candidate_and_logits_on_all() -> None:
    supernet, relaxation = Supernet(toy_spaces()["Everything"]), SETN().relaxation
    group = supernet.groups["cell"]
    logits = torch.randn(relaxation.shape(group), generator=torch.Generator().manual_seed(0)) * 5
    draws = torch.Generator().manual_seed(0)
    counts = torch.zeros(group.shape)
    for _ in range(500):
        mixture = relaxation.mixture(group, logits, Moment(0, 1, draws))
        assert torch.equal(mixture.weights.sum(dim=1), torch.ones(len(group.rows)))
        counts += mixture.weights
    alive = torch.tensor(group.alive).float()
    uniform = 500 * alive / alive.sum(dim=1, keepdim=True)
    assert ((counts - uniform).abs() <= 4.5 * uniform.sqrt()).all()  # whatever the logits say
    soft = relaxation.mixture(group, logits, Moment(0, 1, draws, "logits"))
    assert torch.equal(soft.weights, relaxation.probabilities(group, logits))


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Any:
    strategy = DARTS(derive=Judge(top=2, sample=6, temperature=2.0))
    folder = tmp_path_factory.mktemp("judged")
    experiment = Experiment(toy_spaces()["Everything"], Fit(2), strategy, directory=folder / "run")
    experiment.run()
    return experiment


def test_the_most_probable_and_the_drawn_are_compared(judged: Any) -> None:
    search = judged.search
    losses = [value for value, _ in search.judged]
    archs = [json.dumps(judged.space.canonical(arch)) for _, arch in search.judged]
    assert losses == sorted(losses)
    assert 2 < len(archs) == len(set(archs)) <= 8
    for arch in top_architectures(search.supernet, search.probabilities(), 2):
        assert json.dumps(judged.space.canonical(arch)) in archs
    assert judged.best == search.judged[0][1]


def test_after_the_judged_come_the_most_probable(judged: Any) -> None:
    found, count = judged.search.derive(12), len(judged.search.judged)
    assert found[:count] == [arch for _, arch in judged.search.judged]
    assert len({json.dumps(judged.space.canonical(arch)) for arch in found}) == 12


def test_the_run_folder_has_what_was_judged_and_the_best_of_each_epoch(judged: Any) -> None:
    written: Any = load_yaml(judged.directory / "search.yaml")
    assert [line["value"] for line in written["judged"]] == [value for value, _ in judged.search.judged]
    assert written["compared_by"] == "loss"
    tables = [{x: t[epoch] for x, t in judged.search.history.items()} for epoch in range(2)]
    expected = [top_architectures(judged.supernet, table, 1)[0] for table in tables]
    assert written["best_of_epochs"] == expected


def test_draws_follow_the_probabilities_at_temperature_one_and_the_best_at_none() -> None:
    """4,000 draws of (.5, .3, .2) at T = 1 and at T = 2, where p is (.4154, .3218, .2627)."""
    group = Supernet(toy_spaces()["Layers"]).groups["first"]
    table, draws = torch.tensor([[0.5, 0.3, 0.2]]), torch.Generator().manual_seed(0)
    for temperature, expected in ((1.0, table[0]), (2.0, table[0].sqrt() / table.sqrt().sum())):
        counts = torch.zeros(3)
        for _ in range(4000):
            counts[perturbed(group, table, temperature, draws).argmax()] += 1
        assert torch.allclose(counts / 4000, expected, atol=4 * (0.25 / 4000) ** 0.5)
    assert all(perturbed(group, table, 1e-3, draws).argmax() == 0 for _ in range(20))


def test_pruned_candidates_are_never_drawn() -> None:
    group = Supernet(toy_spaces()["Layers"]).groups["first"]
    table = perturbed(group, torch.tensor([[0.0, 0.7, 0.3]]), 1.0, torch.Generator().manual_seed(0))
    assert table[0, 0] == 0
    assert table.max() == 1


def test_refusals() -> None:
    with pytest.raises(SpaceError, match=r"extras holds Judge\("):
        RandomOneShot(extras=(Judge(),)).attach(Supernet(toy_spaces()["Layers"]))
    for name in ("top", "validation_batches"):
        with pytest.raises(SpaceError, match=f"{name}=0"):
            Judge(**{name: 0})
    with pytest.raises(SpaceError, match="candidates=0"):
        SETN(candidates=0)
