"""PC-DARTS: its derivation oracle, edge weights, and what one step of the logits computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from spacelang import Cell, LayerChoice, ModelSpace, SpaceError, Supernet
from spacelang.hub import DARTS as DartsSpace
from spacelang.strategies import PCDARTS, Penalty, top_architectures
from spacelang.strategies.one_shot.partial import PartialCell

from .test_derivation import OneCell, oracle_logits, slots_of
from .test_search import quiet_trainer

EDGES = {2: (0, 1), 3: (2, 3, 4), 4: (5, 6, 7, 8), 5: (9, 10, 11, 12, 13)}


def oracle_table() -> Tensor:
    """Oracle 1a with beta[e] = cos(2e) as the last column."""
    return torch.cat([oracle_logits(), torch.cos(2 * torch.arange(14.0).double())[:, None]], dim=1)


def test_derivation_oracle() -> None:
    supernet = Supernet(OneCell(distinct_inputs=True))
    relaxation, group = PCDARTS().relaxation, supernet.groups["cell"]
    assert relaxation.shape(group) == (14, 9)
    table = relaxation.probabilities(group, oracle_table())
    (arch,) = top_architectures(supernet, {"cell": table}, 1)
    assert slots_of(arch) == [
        [("sep_conv_5x5", 0), ("dil_conv_5x5", 1)],
        [("dil_conv_5x5", 1), ("max_pool_3x3", 2)],
        [("dil_conv_3x3", 1), ("max_pool_3x3", 2)],
        [("dil_conv_3x3", 1), ("dil_conv_3x3", 3)],
    ]


def test_tables_are_products_of_the_two_softmaxes() -> None:
    supernet = Supernet(OneCell(distinct_inputs=True))
    relaxation, group, logits = PCDARTS().relaxation, supernet.groups["cell"], oracle_table()
    mixture = relaxation.mixture(group, logits)
    alpha = logits[:, :8].softmax(dim=1)[:, 1:]
    assert mixture.edges is not None
    assert torch.allclose(mixture.weights, alpha)
    for rows in EDGES.values():
        assert torch.allclose(mixture.edges[list(rows)], logits[list(rows), 8].softmax(dim=0))
    table = relaxation.probabilities(group, logits)
    assert torch.allclose(table, alpha * mixture.edges[:, None])
    assert PCDARTS(none=False).relaxation.shape(group) == (14, 8)


def test_pruned_edges_have_no_share() -> None:
    supernet = Supernet(OneCell(distinct_inputs=True))
    supernet.prune({"cell": [[row != 3] * 7 for row in range(14)]})
    mixture = PCDARTS().relaxation.mixture(supernet.groups["cell"], torch.zeros(14, 9))
    assert mixture.edges is not None
    assert mixture.edges[2:5].tolist() == pytest.approx([0.5, 0, 0.5])


class Small(ModelSpace):
    """One cell of convolutions, and a choice outside of it."""

    def __init__(self) -> None:
        super().__init__()
        operations = {"a": nn.Conv2d(4, 4, 1), "b": nn.Conv2d(4, 4, 3, padding=1)}
        self.cell = Cell(operations, 2, 1, 2, label="cell")
        self.outside = LayerChoice([nn.Identity(), nn.Tanh()], label="outside")

    def forward(self, x: Tensor) -> Tensor:
        return self.outside(self.cell(x, 2 * x)).mean(dim=(1, 2, 3))


class Squares(pl.LightningModule):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return ((self.model(batch[0]) - 1) ** 2).mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None: ...

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def by_hand(supernet: Supernet, logits: dict[str, Tensor], x: Tensor, partial: int) -> Tensor:
    """The loss on a batch, from the paper's formulas."""
    cell = supernet.network.cell
    states = [x, 2 * x]
    for rows in ((0, 1), (2, 3, 4)):
        beta = logits["cell"][list(rows), -1].softmax(dim=0)
        node = torch.zeros_like(x)
        for share, source, row in zip(beta, range(5), rows, strict=False):
            alpha = logits["cell"][row, :-1].softmax(dim=0)  # of none, a and b
            state, seen = states[source], 4 // partial
            mixed = sum(w * f(state[:, :seen]) for w, f in zip(alpha[1:], cell.edges[row], strict=True))
            blocks = [mixed, *state.split(seen, dim=1)[1:]]
            node = node + share * torch.stack(blocks, dim=2).flatten(1, 2)
        states.append(node)
    y = torch.cat(states[2:], dim=1)
    p = logits["outside"][0].softmax(dim=0)
    return (((p[0] * y + p[1] * y.tanh()).mean(dim=(1, 2, 3)) - 1) ** 2).mean()


@pytest.mark.parametrize("partial", [1, 2, 4])
def test_one_step_of_the_logits(tmp_path: Path, partial: int) -> None:
    """Adam gets the gradient of the validation loss in alpha and beta, both in one table."""
    torch.manual_seed(0)
    strategy = PCDARTS(partial=partial, warmup_epochs=0, weight_decay=0.0, init_scale=1.0)
    supernet = strategy.supernet(Small())
    assert isinstance(supernet.network.cell, PartialCell) == (partial > 1)
    search = strategy.attach(supernet, seed=1)
    before = {label: p.detach().clone().requires_grad_() for label, p in search.parameters.logits.items()}
    assert before["cell"].shape == (5, 4)
    train, val = torch.randn(2, 3, 4, 5, 5)
    loss = by_hand(supernet, before, val, partial)
    gradients = torch.autograd.grad(loss, list(before.values()))
    batches = [DataLoader(TensorDataset(x), batch_size=3) for x in (train, val)]
    quiet_trainer(tmp_path, search, num_sanity_val_steps=0).fit(Squares(supernet), *batches)
    moments = search.state_dict()["moments"]
    for label, gradient in zip(before, gradients, strict=True):
        assert gradient.abs().max() > 1e-4
        assert torch.allclose(moments[label]["exp_avg"], 0.5 * gradient, atol=1e-6)  # beta1 = .5
        stepped = before[label] - 6e-4 * gradient.sign()  # Adam's first step
        assert torch.allclose(search.parameters.logits[label], stepped, atol=1e-6)
    assert torch.equal(search.history["cell"][0], search.probabilities()["cell"])


def test_a_penalty_counts_edges_by_their_weights() -> None:
    """One slot a node: an operation costs its parameters times its probability and its edge's weight."""
    penalty = Penalty("params", 50.0)
    strategy = PCDARTS(partial=2, none=False, extras=(penalty,))
    search = strategy.attach(strategy.supernet(Small()))
    table = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    search.parameters.logits["cell"].data = table
    beta = torch.cat([table[:2, 2].softmax(dim=0), table[2:, 2].softmax(dim=0)])
    costs = torch.tensor([4 * 4 + 4.0, 4 * 4 * 9 + 4])  # with all channels, as the architecture found has
    expected = (beta[:, None] * table[:, :2].softmax(dim=1) * costs).sum()
    assert penalty.expected(search).item() == pytest.approx(expected.item())
    (gradient,) = torch.autograd.grad(penalty.expected(search), search.parameters.logits["cell"])
    assert (gradient != 0).all()


def test_logits_are_frozen_while_the_weights_warm_up(tmp_path: Path) -> None:
    strategy = PCDARTS(partial=2)
    assert (strategy.warmup_epochs, strategy.learning_rate, strategy.weight_decay) == (15, 6e-4, 1e-3)
    supernet = strategy.supernet(Small())
    search = strategy.attach(supernet)
    batches = [DataLoader(TensorDataset(x), batch_size=3) for x in torch.randn(2, 3, 4, 5, 5)]
    quiet_trainer(tmp_path, search, max_epochs=16).fit(Squares(supernet), *batches)
    history = search.history["cell"]
    assert all(torch.equal(table, history[0]) for table in history[:15])
    assert not torch.equal(history[15], history[0])


@pytest.mark.slow
def test_an_instance_has_partial_channels_and_the_dict_rebuilds_all_of_them() -> None:
    space = DartsSpace(8, 3, (1, 8, 10), num_nodes=2)
    supernet = PCDARTS(partial=4).supernet(space)
    arch = space.default()
    x = torch.randn(2, 1, 8, 8)
    frozen, full = supernet.freeze(arch), space.rebuild().freeze(arch)
    assert frozen(x).shape == full(x).shape == (2, 10)
    names = [type(module).__name__ for module in frozen.modules()]
    assert names.count("PartialOperation") == 3 * 4


@pytest.mark.parametrize("partial", [0, 2.0, True, "4"])
def test_bad_settings_are_named(partial: Any) -> None:
    with pytest.raises(SpaceError, match=f"partial={partial!r} must be an integer of at least 1"):
        PCDARTS(partial=partial)


def test_channels_that_cannot_be_divided_are_refused_before_training(tmp_path: Path) -> None:
    from ..toys.search_script import make

    with pytest.raises(
        SpaceError, match=r"candidate 'max_pool_3x3': its layer '1', BatchNorm2d.*which 3 does"
    ):
        make(tmp_path / "run", method=PCDARTS(partial=3))
    assert not (tmp_path / "run").exists()
