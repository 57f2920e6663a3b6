"""FairDARTS against its oracles: the zero-one loss and the sparse derivation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from spacelang import SpaceError, Supernet
from spacelang.hub import SNAS as AnyEdges
from spacelang.hub import FairDARTS as FairDartsSpace
from spacelang.hub import FairDARTSEdges as OpenEdges
from spacelang.strategies import FairDARTS
from spacelang.strategies.one_shot.fairdarts import Sigmoid, zero_one_loss

EDGES = [(source, node) for node in range(2, 6) for source in range(node)]
MAX, AVG, SKIP, SEP3, SEP5, DIL3, DIL5 = (
    *("max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5"),
    *("dil_conv_3x3", "dil_conv_5x5"),
)


def oracle_logits() -> Tensor:
    """alpha[e, k] = 2 sin(1 + e + 4k + 3ek) + .3, over seven operations."""
    e, k = torch.arange(14, dtype=torch.float64)[:, None], torch.arange(7, dtype=torch.float64)
    return 2 * torch.sin(1 + e + 4 * k + 3 * e * k) + 0.3


def test_oracle_of_the_zero_one_loss() -> None:
    alpha = torch.tensor([[2, -1.5, 0.3, 4]], dtype=torch.float64, requires_grad=True)
    loss = zero_one_loss([alpha])
    assert alpha.sigmoid()[0].tolist() == pytest.approx(
        [0.88079708, 0.18242552, 0.57444252, 0.98201379], abs=5e-9
    )
    assert loss.item() == pytest.approx(-0.12093474, abs=5e-9)
    assert zero_one_loss([alpha], "absolute").item() == pytest.approx(-0.31370697, abs=5e-9)
    (gradient,) = torch.autograd.grad(loss, alpha)
    expected = [-0.01999063, 0.02368255, -0.00909905, -0.00425683]
    assert gradient[0].tolist() == pytest.approx(expected, abs=5e-9)


def test_oracle_10a() -> None:
    tables = [oracle_logits()] * 2
    assert zero_one_loss(tables).item() == pytest.approx(-0.0868217976, abs=5e-11)
    assert zero_one_loss(tables, "absolute").item() == pytest.approx(-0.2709581343, abs=5e-11)
    assert oracle_logits().sigmoid().max(dim=1).values.tolist() == pytest.approx(
        [
            *(0.878994, 0.892697, 0.908862, 0.716356, 0.877966, 0.81172, 0.844508),
            *(0.908862, 0.908681, 0.908512, 0.905552, 0.908681, 0.908016, 0.907309),
        ],
        abs=5e-7,
    )


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    return Supernet(FairDartsSpace(2, 3, (1, 8, 10)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (
            0.85,
            {
                (1, 2): MAX,
                (0, 2): MAX,
                (0, 3): SEP3,
                (2, 3): AVG,
                (2, 4): AVG,
                (3, 4): SEP5,
                (2, 5): DIL5,
                (0, 5): DIL3,
            },
        ),
        (  # the authors' node 2 is empty; the first node of this space must have an input
            0.905,
            {(1, 2): MAX, (0, 3): SEP3, (2, 4): AVG, (3, 4): SEP5, (2, 5): DIL5, (0, 5): DIL3},
        ),
    ],
)
def test_oracle_10a_of_the_sparse_derivation(
    supernet: Supernet, threshold: float, expected: dict[tuple[int, int], str]
) -> None:
    strategy = FairDARTS(threshold=threshold)
    alpha = torch.nn.functional.pad(oracle_logits(), (0, 1), value=-9.0)  # "none" is last
    tables = {
        label: Sigmoid().probabilities(group, alpha[EDGES.index(edge)][None])
        for label, group in supernet.groups.items()
        for edge in [tuple(map(int, label.split("/")[1].split("_")))]
    }
    (arch,) = strategy.architectures(supernet, tables, 1)
    for kind in ("normal", "reduce"):
        kept = {
            (source, node): arch[f"{kind}/{source}_{node}"]
            for source, node in EDGES
            if arch[f"{kind}/{source}_{node}"] != "none"
        }
        assert kept == expected


def test_logits_begin_at_one_half(supernet: Supernet) -> None:
    search = FairDARTS().attach(supernet)
    for table in search.probabilities().values():
        assert torch.equal(table, torch.full_like(table, 0.5))


@pytest.mark.parametrize("settings", [{"zero_one": "cubed"}, {"threshold": 1.0}, {"zero_one_weight": -1.0}])
def test_bad_settings_are_named(settings: dict[str, object]) -> None:
    (name,) = settings
    with pytest.raises(SpaceError, match=f"{name}="):
        FairDARTS(**settings)  # type: ignore[arg-type]


@pytest.mark.slow
def test_every_edge_above_the_threshold_stays_where_nodes_keep_any_number() -> None:
    """The nine edges of oracle 10a whose largest sigmoid reaches .88, each with that operation."""
    supernet = Supernet(AnyEdges(2, 3, (1, 8, 10)))
    logits = oracle_logits()
    tables = {}
    for label, group in supernet.groups.items():
        source, node = map(int, label.rpartition("/")[2].split("_"))
        own = torch.full((1, len(group.columns)), -9.0, dtype=torch.float64)
        for k, name in enumerate((MAX, AVG, SKIP, SEP3, SEP5, DIL3, DIL5)):
            own[0, group.columns.index(name)] = logits[EDGES.index((source, node)), k]
        tables[label] = Sigmoid().probabilities(group, own)
    (arch,) = FairDARTS(threshold=0.88).architectures(supernet, tables, 1)
    kept = {label: name for label, name in arch.items() if label.startswith("normal/") and name != "none"}
    largest = logits.sigmoid().max(dim=1).values
    reached = [edge for edge, value in zip(EDGES, largest.tolist(), strict=True) if value >= 0.88]
    assert len(reached) == 9
    assert kept == {
        f"normal/{source}_{node}": (MAX, AVG, SKIP, SEP3, SEP5, DIL3, DIL5)[
            int(logits[EDGES.index((source, node))].argmax())
        ]
        for source, node in reached
    }


@pytest.mark.parametrize(
    ("per_edge", "first", "second"),
    [(1, [MAX], [DIL5]), (2, [MAX, AVG], [DIL5, SEP5]), (3, [MAX, AVG], [DIL5, SEP5, SKIP])],
)
def test_an_edge_keeps_its_best_operations_that_reach_the_threshold(
    per_edge: int, first: list[str], second: list[str]
) -> None:
    """Two of four operations from input 0 reach 0.85, and three from input 1."""
    supernet = Supernet(OpenEdges(2, 3, (1, 8, 10), num_nodes=1))
    sigmoids = {
        "0_2": {MAX: 0.9, AVG: 0.86, SKIP: 0.2, SEP3: 0.84},
        "1_2": {MAX: 0.5, DIL5: 0.95, SKIP: 0.851, SEP5: 0.9},
    }
    tables = {}
    for label, group in supernet.groups.items():
        _, edge, name = label.split("/")
        p = sigmoids[edge].get(name, 0.01) if label.startswith("normal") else 0.9
        tables[label] = torch.tensor([[p, 0.3]])
        assert group.columns == (name, "none")
    (arch,) = FairDARTS(per_edge=per_edge).architectures(supernet, tables, 1)
    found = {label: v for label, v in arch.items() if label.startswith("normal") and v != "none"}
    edges = {"0_2": first, "1_2": second}
    assert found == {f"normal/{edge}/{name}": name for edge, names in edges.items() for name in names}


@pytest.mark.slow
def test_oracle_10a_of_the_derivation_of_every_edge() -> None:
    """Of each of 14 edges the two largest sigmoids from 0.85 on."""
    supernet, logits = Supernet(OpenEdges(2, 3, (1, 8, 10))), oracle_logits()
    names = (MAX, AVG, SKIP, SEP3, SEP5, DIL3, DIL5)
    tables = {}
    for label in supernet.groups:
        _, edge, name = label.split("/")
        source, node = map(int, edge.split("_"))
        alpha = logits[EDGES.index((source, node)), names.index(name)]
        tables[label] = torch.stack([alpha.sigmoid(), alpha.new_zeros(())])[None]
    (arch,) = FairDARTS().architectures(supernet, tables, 1)
    expected = {
        f"normal/{source}_{node}/{names[k]}"
        for (source, node), row in zip(EDGES, logits.sigmoid(), strict=True)
        for value, k in zip(*map(Tensor.tolist, row.topk(2)), strict=True)
        if value >= 0.85
    }
    assert {label for label, value in arch.items() if label[0] == "n" and value != "none"} == expected


def test_the_zero_one_loss_is_of_operations_alone() -> None:
    """Four operations at 2 and "none" at 0: -(sigmoid(2) - 1/2)^2."""
    supernet = Supernet(OpenEdges(2, 3, (1, 8, 10), num_nodes=1, operations=[SKIP, SEP3, "none"]))
    search = FairDARTS().attach(supernet)
    for parameter in search.parameters.logits.values():
        parameter.data = torch.tensor([[2.0, 0.0]])
    loss = FairDARTS(zero_one_weight=1.0).objective(torch.zeros(()), search, "logits")
    assert loss.item() == pytest.approx(-((torch.tensor(2.0).sigmoid().item() - 0.5) ** 2))
