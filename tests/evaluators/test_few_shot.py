"""Few-shot tasks: prototypes by hand, and episodes with what they promise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from spacelang import SpaceError
from spacelang.evaluators import FewShot
from spacelang.evaluators.data import Episode, Episodes, digits
from spacelang.evaluators.training.few_shot import prototype_logits


def test_prototypes_by_hand() -> None:
    """Prototypes (1, 1) and (4, 0); the query (1, 3) is at squared distances 4 and 18."""
    support = torch.tensor([[0.0, 1], [4, 0], [2, 1]])
    logits = prototype_logits(support, torch.tensor([0, 1, 0]), torch.tensor([[1.0, 3], [4, 0]]))
    assert logits.tolist() == [[-4.0, -18.0], [-10.0, 0.0]]


def numbered(classes: int = 5, each: int = 8) -> Any:
    """Samples that say their class and their number."""
    labels = torch.arange(classes).repeat_interleave(each)
    return TensorDataset(torch.stack([labels, torch.arange(len(labels))], dim=1).float(), labels)


def test_episodes() -> None:
    """Classes of the given ones, new labels, no sample twice; the seed decides everything."""
    data = Episodes(numbered(), classes=[1, 3, 4], ways=2, shots=3, queries=4, count=10)
    drawn = set()
    for episode in (data[i] for i in range(10)):
        assert (len(episode.support), len(episode.queries)) == (6, 8)
        assert episode.support_labels.tolist() == [0, 0, 0, 1, 1, 1]
        classes = [int(episode.support[3 * k, 0]) for k in range(2)]
        assert len(set(classes)) == 2
        for part, labels in (
            (episode.support, episode.support_labels),
            (episode.queries, episode.query_labels),
        ):
            assert part[:, 0].tolist() == [classes[int(label)] for label in labels]
        numbers = [*episode.support[:, 1].tolist(), *episode.queries[:, 1].tolist()]
        assert len(set(numbers)) == 14
        drawn |= set(classes)
    assert drawn == {1, 3, 4}
    again = Episodes(numbered(), classes=[1, 3, 4], ways=2, shots=3, queries=4, count=10)
    assert all(map(torch.equal, data[3], again[3]))
    other = Episodes(numbered(), classes=[1, 3, 4], ways=2, shots=3, queries=4, count=10, seed=1)
    assert not all(map(torch.equal, data[3], other[3]))
    assert len(list(DataLoader(data, batch_size=None))) == 10


def test_a_network_learns_to_embed_digits() -> None:
    """Three of five digits by two samples of each: most are right after 60 episodes."""
    splits = digits()
    train, val = (
        DataLoader(Episodes(splits.train, classes=range(5), shots=2, count=count, seed=seed), batch_size=None)
        for count, seed in ((30, 0), (20, 1))
    )
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))
    settings: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False, "max_epochs": 2}
    evaluator = FewShot(train_dataloaders=train, val_dataloaders=val, **settings)
    before = evaluator.validate(network)["val_loss"]
    after = evaluator.evaluate(network)
    assert after["val_loss"] < before / 2
    assert after["val_acc"] > 0.85


def test_misuse() -> None:
    with pytest.raises(SpaceError, match=r"classes=\[0, 1\] are fewer than ways=3"):
        Episodes(numbered(), classes=range(2))
    with pytest.raises(SpaceError, match="class 0 has 8 samples; expected at least 9"):
        Episodes(numbered(), classes=range(5), ways=2, shots=4, queries=5)
    module: Any = FewShot().lightning_module(nn.Linear(2, 2))
    with pytest.raises(SpaceError, match="expected an Episode"):
        module.training_step((torch.zeros(2, 2), torch.zeros(2)), 0)
    episode = Episode(torch.zeros(2, 2), torch.tensor([0, 1]), torch.zeros(1, 2), torch.zeros(1).long())
    flat: Any = FewShot().lightning_module(nn.Sequential(nn.Linear(2, 1), nn.Flatten(0)))
    with pytest.raises(SpaceError, match="expected embeddings"):
        flat.training_step(episode, 0)
