"""`RNNCell` and `RecurrentLM`: numbers of the papers, dropout masks, foreign weights, searches of a text."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spacelang import Experiment, SpaceError, Supernet, hub, model_context, profile
from spacelang.evaluators import Language, RateByLength
from spacelang.evaluators.data import Windows, help_pages
from spacelang.hub import RecurrentLM, RNNCell, from_recurrent_genotype, to_recurrent_genotype
from spacelang.hub.published import convert_weights, read_entry
from spacelang.strategies import DARTS, Softmax, top_architectures

DOUBLE: dict[str, Any] = {"dtype": torch.float64}
V1 = (
    "Genotype(recurrent=[('relu', 0), ('relu', 1), ('tanh', 2), ('relu', 3), ('relu', 4), ('identity', 1), "
    "('relu', 5), ('relu', 1)], concat=range(1, 9))"
)
ENTRIES = ("darts-rnn-v1", "darts-rnn-v2", "enas-rnn")
NO_DROPOUT = {f"{part}_dropout": 0.0 for part in ("embedding", "input", "cell", "hidden", "output")}


def small(**arguments: Any) -> RecurrentLM:
    torch.manual_seed(0)
    return RecurrentLM(**{"vocabulary": 5, "width": 2, "num_nodes": 2, **NO_DROPOUT, **arguments}).double()


# ---- numbers known in advance


def worked(norm: bool) -> RNNCell:
    """The cell of the worked example: weights (r, c) of .1 sin(1 + s + 3i + 7j), s the node."""

    def weights(rows: int, s: int) -> Tensor:
        i, j = torch.arange(rows, **DOUBLE)[:, None], torch.arange(4, **DOUBLE)
        return (0.1 * torch.sin(1 + s + 3 * i + 7 * j)).T

    space = RNNCell(2, 2, norm=norm).double()
    with torch.no_grad():
        space.first.weight.copy_(weights(4, 0))
        for node, projection in enumerate(space.cell.frame.projection, start=1):
            projection.linear.weight.copy_(weights(2, node))
    return space


X, H = torch.tensor([[0.5, -1]], **DOUBLE), torch.tensor([[0.2, 0.4]], **DOUBLE)


# Computed with numpy from the equations of the paper's appendix.
@pytest.mark.parametrize(
    ("name", "expected"),
    [("darts-rnn-v1", (0.0265548013, 0.0358835868)), ("darts-rnn-v2", (0.1618905911, 0.1717441392))],
)
def test_published_cells(name: str, expected: tuple[float, float]) -> None:
    space = worked(norm=False)
    assert space.size() == 2_642_411_520
    model = space.freeze(hub.architecture(name))
    states: list[Tensor] = []
    model.cell.register_forward_pre_hook(lambda _, given: states.append(given[0]))
    assert model(X, H)[0].tolist() == pytest.approx(expected, abs=1e-10)
    assert states[0][0].tolist() == pytest.approx((0.1408923156, 0.1880278426), abs=1e-10)


def test_a_mixture_and_what_it_derives() -> None:
    """alpha[e, k] = 2 sin(1 + e + 4k + 3ek), 36 edges and 5 columns, the first of them none."""
    supernet = Supernet(worked(norm=False))
    e, k = torch.arange(36, **DOUBLE)[:, None], torch.arange(5, **DOUBLE)
    group = supernet.groups["cell"]
    table = Softmax().probabilities(group, 2 * torch.sin(1 + e + 4 * k + 3 * e * k))
    supernet.set_mixture({"cell": table})
    assert supernet(X, H)[0].tolist() == pytest.approx((0.8180916765, 0.8786809906), abs=1e-10)
    # The table's columns are in the order tanh, relu, sigmoid, identity, as in the authors' code.
    (arch,) = top_architectures(supernet, {"cell": table}, 1)
    genes = [(arch[f"cell/op_{n}_0"], arch[f"cell/input_{n}_0"]) for n in range(1, 9)]
    expected = "sigmoid0 sigmoid1 tanh1 identity3 identity1 relu1 identity1 relu5"
    assert genes == [(gene[:-1], int(gene[-1])) for gene in expected.split()]


def test_the_search_cell_normalises_every_state_by_the_batch() -> None:
    """One node with one activation, written out; in evaluation mode the same."""

    def normal(x: Tensor) -> Tensor:
        return (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()

    space = worked(norm=True)
    arch = {f"cell/op_{n}_0": "tanh" for n in range(1, 9)} | {f"cell/input_{n}_0": 0 for n in range(1, 9)}
    x, h = torch.cat([X, -X, 2 * X]), torch.cat([H, 3 * H, -H])
    c, y = space.first(torch.cat([x, h], dim=1)).chunk(2, dim=1)
    first = normal(h + c.sigmoid() * (y.tanh() - h))
    states = []
    for projection in space.cell.frame.projection:
        c, y = projection.linear(first).chunk(2, dim=1)
        states.append(normal(first + c.sigmoid() * (y.tanh() - first)))
    expected = torch.stack(states).mean(0)
    model = space.freeze(arch)
    for mode in (True, False):
        torch.testing.assert_close(model.train(mode)(x, h), expected, rtol=0, atol=1e-12)
    with model_context(arch):
        assert not any(isinstance(part, nn.BatchNorm1d) for part in RNNCell(2, 2).modules())


@pytest.mark.parametrize("name", ENTRIES)
def test_counts(name: str) -> None:
    for row in read_entry(name).counts:
        with torch.device("meta"):
            model = hub.load(name, **row["arguments"])
        found = profile(model, torch.zeros(1, row["tokens"], dtype=torch.long))
        assert (found.parameters, found.macs) == (row["parameters"], row["macs"])
    expected = {"enas-rnn": 27_295_000}.get(name, 22_960_000)
    assert read_entry(name).counts[0]["parameters"] == expected  # with 10,000 words and 850 units


def test_the_search_network_has_as_many_weights() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in RecurrentLM(width=300).parameters()) == 4_810_000


def test_enas_averages_the_nodes_that_no_node_reads() -> None:
    model = hub.load("enas-rnn", vocabulary=5, width=2, **NO_DROPOUT).double()
    states: list[Tensor] = []
    cell: Any = model.rnn.cell
    cell.frame.postprocessor.register_forward_pre_hook(lambda _, given: states.append(given[0]))
    _, outputs = model.eval()(torch.tensor([[3]]))
    (joined,) = states
    assert joined.shape == (1, 6 * 2)  # nodes 2, 5, 6, 9, 10 and 11
    torch.testing.assert_close(outputs[0, 0], joined.view(6, 2).mean(0), rtol=0, atol=1e-15)


# ---- notation


def test_genotypes() -> None:
    assert from_recurrent_genotype(V1) == hub.architecture("darts-rnn-v1")
    for name in ENTRIES:
        arch, merge_op = hub.architecture(name), "loose_end" if name == "enas-rnn" else "all"
        text = to_recurrent_genotype(arch, merge_op)  # type: ignore[arg-type]
        assert from_recurrent_genotype(text) == arch
    assert text.endswith("concat=[2, 5, 6, 9, 10, 11])")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Genotype(normal=[], concat=[1])", r"must be written Genotype\(recurrent="),
        ("Genotype(recurrent=[('relu', 1)], concat=[1])", r"recurrent\[0\] \(node 1\) .* 0 to 0, got"),
        ("Genotype(recurrent=[('relu', 0)], concat=range(0, 100000000000))", r"must be all nodes, \[1\]"),
        ("Genotype(recurrent=[], concat=[1])", "must be a pair"),
        ("Genotype(recurrent=[('relu', 0)], concat=3)", "all nodes"),
        ("__import__('os')", "must be written"),
    ],
)
def test_malformed_genotypes(text: str, words: str) -> None:
    with pytest.raises(SpaceError, match=words):
        from_recurrent_genotype(text)
    with pytest.raises(SpaceError, match="not the architecture dict of a recurrent cell"):
        to_recurrent_genotype({"cell/op_1_0": "relu", "cell/inptu_1_0": 0})


# ---- the language model


def test_the_state_carries_a_text_on() -> None:
    model = small().eval()
    arch = model.default()
    model = model.freeze(arch)
    tokens = torch.tensor([[0, 1, 2, 3, 4, 0], [4, 3, 2, 1, 0, 1]])
    whole, states = model(tokens)
    first, state = model(tokens[:, :4])
    second, _ = model(tokens[:, 4:], state)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole, rtol=0, atol=1e-14)
    assert states.shape == (2, 6, 2)


def test_output_and_input_share_their_weight() -> None:
    model = small()
    model.bias.data.normal_()
    logits, outputs = model(torch.tensor([[0, 1], [2, 3]]))
    torch.testing.assert_close(logits, outputs @ model.embedding.weight.T + model.bias)


def test_dropout_masks_are_the_same_at_all_times() -> None:
    """With the same word at every step and a state that is not carried, all steps are alike."""
    model = small(width=16, norm=False, cell_dropout=0.5, input_dropout=0.5, output_dropout=0.5)
    seen: list[Tensor] = []
    model.rnn.first.register_forward_pre_hook(lambda _, given: seen.append(given[0][:, :16]))
    torch.manual_seed(1)
    model.train()(torch.full((2, 3), 4))
    assert 0 < (seen[0] == 0).double().mean() < 1
    assert all(torch.equal(seen[0], step) for step in seen[1:])
    assert not torch.equal(seen[0][0], seen[0][1])  # rows have masks of their own
    zero = seen[0] == 0
    expected = (model.embedding.weight[4] * 4).expand(2, -1)  # two masks of 1 / (1 - .5)
    torch.testing.assert_close(seen[0][~zero], expected[~zero])


def test_hidden_dropout_is_before_every_projection_and_nowhere_else() -> None:
    """With every entry dropped but for rounding, gates are sigmoid(0) and candidates f(0)."""
    model = small(norm=False, hidden_dropout=1 - 1e-12)
    arch = model.default() | {"cell/op_1_0": "identity", "cell/op_2_0": "identity"}
    torch.manual_seed(0)
    frozen = model.freeze(arch).train()
    _, outputs = frozen(torch.tensor([[1]]))
    word = frozen.embedding.weight[1]
    c, y = frozen.rnn.first(torch.cat([word, torch.zeros(2, **DOUBLE)])).chunk(2)
    first = c.sigmoid() * y.tanh()
    node = 0.5 * first  # s + sigmoid(0) (0 - s)
    read = node if arch["cell/input_2_0"] == 1 else first
    torch.testing.assert_close(outputs[0, 0], (node + 0.5 * read) / 2, rtol=0, atol=1e-14)


def test_embedding_dropout_removes_whole_words() -> None:
    model = small(vocabulary=50, norm=False, embedding_dropout=0.5)
    seen: list[Tensor] = []
    model.rnn.first.register_forward_pre_hook(lambda _, given: seen.append(given[0][:, :2]))
    torch.manual_seed(0)
    model.train()(torch.arange(50).repeat(2, 1).T)  # each word twice in its row
    gone = (seen[0] == 0).all(dim=1)
    assert 10 < gone.sum() < 40
    assert torch.equal(gone, (seen[1] == 0).all(dim=1))
    torch.testing.assert_close(seen[0][~gone], 2 * model.embedding.weight[~gone])


def test_weights_of_the_authors_are_read() -> None:
    """Names and layout of their files, written down here; the matrices are used from the right there."""
    model = hub.load("darts-rnn-v2", vocabulary=5, width=2, **NO_DROPOUT).double().eval()
    own = model.state_dict()
    theirs = {
        "encoder.weight": own["embedding.weight"],
        "rnns.0._W0": own["rnn.first.weight"].T,
        **{f"rnns.0._Ws.{i}": own[f"rnn.cell.frame.projection.{i}.linear.weight"].T for i in range(8)},
        "decoder.weight": own["embedding.weight"],
        "decoder.bias": own["bias"],
    }
    converted = convert_weights(theirs, model)
    assert converted.keys() == own.keys()
    assert all(torch.equal(converted[name], own[name]) for name in own)
    assert convert_weights(own, model) == own


def test_a_frozen_search_network_is_rebuilt_as_it_is() -> None:
    space = small(norm=None)
    arch = space.default()
    frozen = space.freeze(arch)
    assert frozen.arguments["norm"] is True
    with model_context(arch):
        rebuilt = RecurrentLM(**frozen.arguments)
        assert RecurrentLM(vocabulary=5, width=2, num_nodes=2).arguments["norm"] is False
    assert rebuilt.rnn.norm is not None


# ---- searches


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy",
    [DARTS(learning_rate=3e-3), DARTS(learning_rate=3e-3, order=2, virtual_clip=0.25)],
    ids=["first", "second"],
)
def test_searches_of_a_text(strategy: Any, tmp_path: Path) -> None:
    """The recipe of DARTS, on characters; a model that has learned nothing has their number as perplexity."""
    text = help_pages(1600)
    evaluator = Language(
        5.0,
        5e-7,
        torch.optim.SGD,
        slowness=1e-3,
        max_epochs=2,
        train_dataloaders=Windows(text.train, 8, 20, varied=True),
        val_dataloaders=Windows(text.val, 8, 20),
        gradient_clip_val=0.25,
        callbacks=[RateByLength(20)],
        enable_progress_bar=False,
        accelerator="cpu",
    )
    space = RecurrentLM(len(text.words), 16, num_nodes=2, **NO_DROPOUT | {"hidden_dropout": 0.1})
    experiment = Experiment(space, evaluator, strategy, directory=tmp_path / "run", seed=0)
    experiment.run()
    space.validate(experiment.best)
    (logged,) = (tmp_path / "run" / "logs").rglob("metrics.csv")
    rows = list(csv.DictReader(logged.open()))
    perplexities = [float(row["val_perplexity"]) for row in rows if row["val_perplexity"]]
    assert perplexities[1] < perplexities[0] < len(text.words)
