"""`MLP`: counts in closed form, a block written out, wrong names, a search on a real table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from spacelang import Experiment, SpaceError
from spacelang.evaluators import Classification
from spacelang.hub import MLP
from spacelang.strategies import DARTS


def test_sizes_and_counts() -> None:
    space = MLP(10, 3)
    options = 3 * 3 * 4 * 2  # hidden, norm, activation, residual
    assert space.size() == 3 * sum(options**depth for depth in range(1, 5))
    rng = np.random.default_rng(0)
    for _ in range(20):
        arch = space.sample(rng)
        width, total = arch["width"], 0
        for i in range(arch["depth"]):
            hidden = arch[f"hidden_{i}"]
            total += 2 * width * hidden + hidden + width + 2 * width * (arch[f"norm_{i}"] != "none")
        expected = 10 * width + width + total + 3 * width + 3
        assert sum(p.numel() for p in space.freeze(arch).parameters()) == expected


@pytest.mark.parametrize("residual", ["add", "none"])
@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
def test_a_block_written_out(norm: str, residual: str) -> None:
    torch.manual_seed(0)
    space = MLP(5, 2, width=[4, 6], hidden=[3], depth=[1]).double()
    arch = space.default() | {"width": 6, "norm_0": norm, "residual_0": residual, "activation_0": "silu"}
    model: Any = space.freeze(arch).train()
    x = torch.randn(7, 5, dtype=torch.float64)
    first, block = model.first(x), model.blocks[0]
    if norm == "batch":
        read = (first - first.mean(0)) / (first.var(0, correction=0) + 1e-5).sqrt()
    else:
        read = F.layer_norm(first, (6,)) if norm == "layer" else first
    y = block.fc2(F.silu(block.fc1(read))) + (first if residual == "add" else 0)
    torch.testing.assert_close(model(x), model.last(y), rtol=0, atol=1e-12)


def test_unknown_names() -> None:
    with pytest.raises(SpaceError, match=r"activations.*Closest: 'relu'"):
        MLP(3, 2, activations=["rel"])
    with pytest.raises(SpaceError, match=r"norms"):
        MLP(3, 2, norms=["group"])


def test_a_search_of_a_table(tmp_path: Path) -> None:
    """scikit-learn's wines: 178 rows, 13 features, 3 growers; the most frequent is 40 % of them."""
    from sklearn.datasets import load_wine

    x, y = load_wine(return_X_y=True)
    x = (x - x.mean(0)) / x.std(0)
    rows = TensorDataset(torch.tensor(x).float(), torch.tensor(y))
    train, val = torch.utils.data.random_split(rows, [128, 50], torch.Generator().manual_seed(0))
    evaluator = Classification(
        train_dataloaders=DataLoader(train, 32, shuffle=True),
        val_dataloaders=DataLoader(val, 50),
        learning_rate=1e-2,
        max_epochs=3,
        enable_progress_bar=False,
        accelerator="cpu",
    )
    space = MLP(13, 3, width=[16], hidden=[16], depth=[2], norms=["batch", "none"])
    experiment = Experiment(space, evaluator, DARTS(), directory=tmp_path / "run", seed=0)
    experiment.run()
    space.validate(experiment.best)
    network = space.freeze(experiment.best)
    assert evaluator.evaluate(network)["val_acc"] > 0.85
