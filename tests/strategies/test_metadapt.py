"""MetAdapt: the mixture of a task by hand, DARTS where controllers are zero, adaptation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from spacelang import Experiment, LayerChoice, ModelSpace, SpaceError, Supernet
from spacelang.evaluators import FewShot
from spacelang.evaluators.data import Episodes
from spacelang.strategies import DARTS, MetAdapt, Moment
from spacelang.strategies.one_shot.metadapt import TaskSoftmax, support_of
from spacelang.testing import check_strategy, toy_spaces


class Embedding(ModelSpace):
    """A choice of three layers on two features: the embedding of a sample."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = LayerChoice(
            {"linear": nn.Linear(2, 2), "tanh": nn.Tanh(), "none": nn.Identity()}, label="layer"
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def table(relaxation: TaskSoftmax, group: Any, alpha: list[float], w: list[list[float]]) -> Tensor:
    """Logits of a choice with this alpha and W, and b zero."""
    flat = [*alpha, *[0.0] * len(alpha), *(x for row in w for x in row)]
    logits = torch.tensor([flat], dtype=torch.float64)
    assert logits.shape == relaxation.shape(group)
    return logits


def test_the_mixture_of_a_task_by_hand() -> None:
    relaxation = TaskSoftmax(embedding=2)
    group = Supernet(Embedding()).groups["layer"]
    w = [[0.3, 0.1], [-0.2, 0.4], [0.1, -0.3]]
    logits = table(relaxation, group, [0.2, -0.1, 0.4], w)
    without = relaxation.mixture(group, logits).weights
    assert without[0].tolist() == pytest.approx([0.3375845377, 0.2500887766, 0.4123266856], abs=1e-9)
    assert torch.equal(relaxation.probabilities(group, logits), without)
    z = torch.tensor([0.5, -1.0], dtype=torch.float64)
    torch.testing.assert_close(
        torch.tensor(w).double() @ z, torch.tensor([0.05, -0.5, 0.35], dtype=torch.float64)
    )
    task = replace(relaxation, task=z)
    mixture = task.mixture(group, logits).weights
    assert mixture[0].tolist() == pytest.approx([0.3250831349, 0.1389453860, 0.5359714792], abs=1e-9)
    assert torch.equal(task.probabilities(group, logits), without)  # what is derived knows no task
    logits[0, 3:6] = torch.tensor([0.0, 1.0, 0.0])  # b
    assert task.mixture(group, logits).weights[0, 1] > mixture[0, 1]


def test_controllers_that_are_zero_are_those_of_darts() -> None:
    """Every group of a space: the first logits and mixtures, also of a task, to the last bit."""
    supernet = Supernet(toy_spaces()["Everything"])
    task = torch.tensor([0.7, -2.0])
    ours, darts = replace(MetAdapt(embedding=2).relaxation, task=task), DARTS().relaxation
    for group in supernet.groups.values():
        first = [r.initial(group, 1e-3, torch.Generator().manual_seed(0)) for r in (ours, darts)]
        assert torch.equal(first[0][:, : first[1].shape[1]], first[1])
        assert not first[0][:, first[1].shape[1] :].any()
        moment = Moment(0, 1, torch.Generator())
        weights = [r.mixture(group, x, moment).weights for r, x in zip((ours, darts), first, strict=True)]
        assert torch.equal(*weights)


def tasks(classes: range, seed: int = 0, count: int = 4) -> DataLoader[Any]:
    """Episodes of classes around points of a circle."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(8).repeat_interleave(12)
    centres = torch.stack([(labels * 0.8).cos(), (labels * 0.8).sin()], dim=1)
    x = centres + 0.1 * torch.randn(len(labels), 2, generator=generator)
    data: Any = TensorDataset(x, labels)
    episodes = Episodes(data, classes=classes, ways=2, shots=2, queries=3, count=count, seed=seed)
    return DataLoader(episodes, batch_size=None)


def search(folder: Path, embedding: int = 2, **settings: Any) -> Experiment:
    evaluator = FewShot(
        learning_rate=0.01,
        train_dataloaders=tasks(range(5)),
        val_dataloaders=tasks(range(5, 8), seed=1),
        max_epochs=2,
        accelerator="cpu",
        enable_progress_bar=False,
    )
    torch.manual_seed(0)
    experiment = Experiment(
        Embedding(), evaluator, MetAdapt(embedding=embedding, **settings), directory=folder
    )
    experiment.run()
    return experiment


@pytest.fixture(scope="module", params=[False, True], ids=["two levels", "together"])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    folder = tmp_path_factory.mktemp("metadapt")
    return search(folder / "run", learning_rate=0.05, together=request.param)


def test_alpha_and_controllers_learn(found: Any) -> None:
    parts = found.search.relaxation.parts(
        found.supernet.groups["layer"], found.search.parameters.logits["layer"].detach()
    )
    assert all(part.abs().max() > 1e-3 for part in parts)
    assert found.best["layer"] in ("linear", "tanh", "none")


def test_the_supernet_adapts_to_a_task(found: Any) -> None:
    """The mixture is that of the mean embedding under softmax(alpha); another task has another one."""
    search, supernet = found.search, found.supernet
    group, logits = supernet.groups["layer"], search.parameters.logits["layer"].detach()
    alpha, b, w = search.relaxation.parts(group, logits)
    supernet.eval()
    for support in (torch.eye(2), torch.eye(2) * 5 - 3):
        supernet.set_mixture({"layer": alpha.softmax(1)})
        with torch.no_grad():
            z = supernet(support).mean(dim=0)
        expected = (alpha + w @ z + b).softmax(dim=1)
        search.adapt(support)
        with torch.no_grad():
            adapted = supernet(support)
            supernet.set_mixture({"layer": expected})
            torch.testing.assert_close(adapted, supernet(support))


def test_validation_adapts_too(found: Any) -> None:
    """The search is a callback that gives each episode its own mixture."""
    evaluator = FewShot(val_dataloaders=tasks(range(5, 8), seed=3, count=2), accelerator="cpu")
    values = evaluator.validate(found.supernet, callbacks=[found.search])
    expected = []
    for episode in tasks(range(5, 8), seed=3, count=2):
        found.search.adapt(episode.support)
        module: Any = evaluator.lightning_module(found.supernet).eval()
        with torch.no_grad():
            expected.append(nn.functional.cross_entropy(module(episode), episode.query_labels))
    assert values["val_loss"] == pytest.approx(float(sum(expected)) / 2, rel=1e-5)


def test_wrong_number_of_features(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"MetAdapt\(embedding=3\), and the network returned \(4, 2\)"):
        search(tmp_path, embedding=3)


def test_support() -> None:
    """Of an episode its support set, of another batch its inputs."""
    episode = next(iter(tasks(range(5))))
    assert support_of(episode) is episode.support
    assert support_of((episode.queries, episode.query_labels)) is episode.queries


@pytest.mark.slow
def test_promises() -> None:
    check_strategy(MetAdapt(embedding=2, learning_rate=0.05), epochs=2)
