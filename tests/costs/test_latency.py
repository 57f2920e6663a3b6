"""Latency tables: keys, files, measuring, and what they make of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch import nn as plain

from spacelang import Cell, InputChoice, LayerChoice, ModelSpace, Repeat, SpaceError, nn, value_choice
from spacelang.costs import LatencyTable, expected_cost, measure_latency

from ..toys.spaces import CASES

pytestmark = pytest.mark.slow


class Net(ModelSpace):
    """Every kind of key."""

    def __init__(self) -> None:
        super().__init__()
        inner = LayerChoice({"tanh": plain.Tanh(), "linear": plain.Linear(3, 3)}, label="inner")
        self.stem = LayerChoice(
            {"deep": plain.Sequential(plain.ReLU(), inner), "none": plain.Identity()}, label="stem"
        )
        operations = {"linear": plain.Linear(3, 3), "skip": plain.Identity()}
        self.cells = plain.ModuleList(
            Cell(operations, 1, 1, 2, concat_dim=-1, label="cell") for _ in range(2)
        )
        self.blocks = Repeat(lambda i: plain.Linear(3, 3), (0, 2), label="depth")
        self.skip = InputChoice(2, label="skip")
        self.head = nn.Linear(3, value_choice([1, 2], label="width"))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for cell in self.cells:
            x = cell(x, x)
        return self.head(self.skip(x, self.blocks(x)))


TABLE = {
    "fixed": 1.0,
    "stem/deep": 2.0,
    "inner/tanh": 0.5,
    "inner/linear": 0.25,
    "cell/linear": 4.0,
    "cell/0->2/linear": 3.0,
    "depth/block_0": 8.0,
    "depth/block_1": 16.0,
    "skip/1": 0.125,
    "head": 32.0,
    "head/out_features=2": 64.0,
}
ARCH = {
    "stem": "deep", "inner": "linear", "cell/op_2_0": "linear", "cell/input_2_0": 1, "depth": 2, "skip": 1,
    "width": 2,
}  # fmt: skip


@pytest.mark.parametrize("inputs", [(), torch.zeros(2, 3)])
def test_a_table_written_by_hand(inputs: Any) -> None:
    cost = expected_cost(Net(), TABLE, inputs)
    assert cost.metric == "latency"
    assert cost.of(ARCH) == 1 + 2 + 0.25 + 2 * 4 + 8 + 16 + 0.125 + 64
    assert (
        cost.of(ARCH | {"cell/input_2_0": 0, "depth": 1, "width": 1}) == 1 + 2 + 0.25 + 2 * 3 + 8 + 0.125 + 32
    )
    bare = {k: v for k, v in ARCH.items() if k != "inner"} | {
        "stem": "none",
        "cell/op_2_0": "skip",
        "skip": 0,
    }
    assert cost.of(bare | {"depth": 0}) == 1 + 64


def test_a_key_may_name_one_call() -> None:
    table = {**TABLE, "cell@cells.1/linear": 100.0}
    cost = expected_cost(Net(), table, torch.zeros(2, 3))
    assert cost.of(ARCH) == 1 + 2 + 0.25 + 4 + 100 + 8 + 16 + 0.125 + 64
    with pytest.raises(SpaceError, match=r"names 'cell@cells.1/linear', which Net does not have"):
        expected_cost(Net(), table)


def test_every_kind_of_choice_has_a_gradient() -> None:
    cost = expected_cost(Net(), TABLE, torch.zeros(2, 3))
    shapes = {
        "stem": (1, 2),
        "inner": (1, 2),
        "cell": (2, 2),
        "depth": (1, 3),
        "skip": (1, 2),
        "width": (1, 2),
    }
    assert cost.labels == tuple(sorted(shapes))
    p = {label: torch.full(shape, 1 / shape[1], requires_grad=True) for label, shape in shapes.items()}
    value = cost(p)
    cells = 2 * (3 + 4) / 2 / 2  # a node reads either input, and its operation is as often the skip
    assert value.item() == pytest.approx(1 + (2 + 0.375) / 2 + cells + 8 * 2 / 3 + 16 / 3 + 0.0625 + 48)
    value.backward()
    for label, table in p.items():
        assert table.grad is not None, label
        assert table.grad.abs().sum() > 0, label


def test_keys_that_are_missing_or_unknown() -> None:
    with pytest.raises(SpaceError, match=r"names 'stem/dep', which Net does not have. Closest: 'stem/deep'"):
        expected_cost(Net(), {**TABLE, "stem/dep": 1.0})
    for key, message in [
        ("inner/tanh", "lacks 'inner/tanh'"),
        ("depth/block_1", "lacks 'depth/block_1'"),
        ("head", r"lacks 'head/out_features=1' \(or 'head'\)"),
    ]:
        with pytest.raises(SpaceError, match=message):
            expected_cost(Net(), {k: v for k, v in TABLE.items() if k != key})
    without_edges = {k: v for k, v in TABLE.items() if k != "cell/linear"}
    with pytest.raises(SpaceError, match=r"lacks 'cell@cells.0/1->2/linear' \(or .*'cell/linear'\)"):
        expected_cost(Net(), without_edges, torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({1: 1.0}, "has the key 1; keys are text"),
        ({"a": -1.0}, "latency of 'a' is -1.0"),
        ({"a": float("nan")}, "latency of 'a' is nan"),
        ({"a": "fast"}, "latency of 'a' is 'fast'"),
        ({"a": True}, "latency of 'a' is True"),
    ],
)
def test_a_table_is_checked(table: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        LatencyTable(table)


def test_a_measured_table_has_every_operation_and_survives_a_file(tmp_path: Path) -> None:
    space, x = Net(), torch.zeros(2, 3)
    before = {name: tensor.clone() for name, tensor in space.state_dict().items()}
    state = torch.get_rng_state()
    table = measure_latency(space, x, repeats=2, warmup=1)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in space.state_dict().items())
    cells = [f"cell@cells.{i}/{source}->2/linear" for i in (0, 1) for source in (0, 1)]
    assert set(table.milliseconds) == {
        "fixed", "stem/deep", "inner/tanh", "inner/linear", *cells, "depth/block_0", "depth/block_1",
        "head/out_features=1", "head/out_features=2",
    }  # fmt: skip
    assert all(time > 0 for time in table.milliseconds.values())
    assert (table.device, table.inputs, table.repeats) == ("cpu", ("2x3",), 2)
    # Equal modules on equal inputs are timed once.
    assert len({table.milliseconds[key] for key in (*cells, "inner/linear", "depth/block_0")}) == 1
    table.save(tmp_path / "latency.yaml")
    assert LatencyTable.load(tmp_path / "latency.yaml") == table
    assert expected_cost(space, table, x).of(ARCH) > 0


def test_time_of_a_candidate_leaves_out_choices_inside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted instead of timed: what runs while the stopwatch does."""
    ran: list[str] = []

    class Named(plain.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, x: Tensor) -> Tensor:
            ran.append(self.name)
            return x + 1

        def extra_repr(self) -> str:
            return self.name

    class Nested(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            inner = LayerChoice([Named("inner 0"), Named("inner 1")], label="inner")
            self.before = Named("outside")
            self.outer = LayerChoice([plain.Sequential(Named("outer"), inner, Named("after"))], label="outer")

        def forward(self, x: Tensor) -> Tensor:
            return self.outer(self.before(x))

    found: list[list[str]] = []

    def counted(run: Any, device: Any, repeats: int, warmup: int) -> float:
        ran.clear()
        run()
        found.append(list(ran))
        return 1.0

    monkeypatch.setattr("spacelang.costs.timing.median_milliseconds", counted)
    measure_latency(Nested(), torch.zeros(1))
    assert found == [["outside"], ["outer", "after"], ["inner 0"], ["inner 1"]]


@pytest.mark.parametrize("name", [name for name in CASES if name != "custom"])
def test_every_space_can_be_measured(name: str) -> None:
    space, inputs = CASES[name].space(), CASES[name].example()
    table = measure_latency(space, inputs, repeats=1, warmup=0)
    cost = expected_cost(space, table, inputs)
    rng = np.random.default_rng(0)
    for arch in (space.default(), space.sample(rng)):
        assert cost.of(arch) >= table.milliseconds["fixed"]


def test_combinations_that_constraints_forbid_have_no_key() -> None:
    class Heads(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            width, heads = value_choice([6, 12], label="width"), value_choice([4, 3], label="heads")
            self.attention = nn.MultiheadAttention(width, heads, kdim=4, vdim=4, batch_first=True)
            self.query = nn.Linear(4, width)
            self.constrain(width % heads == 0)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(self.query(x), x, x, need_weights=False)[0]

    space, x = Heads(), torch.zeros(2, 5, 4)
    table = measure_latency(space, x, repeats=1, warmup=0)
    heads = [key for key in table.milliseconds if key.startswith("attention/")]
    assert heads == [f"attention/embed_dim={w},num_heads={h}" for w, h in ((6, 3), (12, 4), (12, 3))]
    even = {label: torch.tensor([[0.5, 0.5]], dtype=torch.float64) for label in ("width", "heads")}
    time = table.milliseconds
    linear = (time["query/out_features=6"] + time["query/out_features=12"]) / 2
    wanted = time["fixed"] + linear + sum(time[key] for key in heads) / 3
    assert expected_cost(space, table, x)(even).item() == pytest.approx(wanted)


def test_what_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("a: 1\n")
    with pytest.raises(SpaceError, match="is no latency table"):
        LatencyTable.load(tmp_path / "other.yaml")
    with pytest.raises(SpaceError, match=r"must end in \.yaml"):
        LatencyTable({}).save(tmp_path / "table.txt")
    with pytest.raises(SpaceError, match="repeats=0 must be an integer of at least 1"):
        measure_latency(Net(), torch.zeros(2, 3), repeats=0)


def test_a_measured_table_needs_the_inputs_that_it_was_measured_with() -> None:
    space, x = Net(), torch.zeros(2, 3)
    table = measure_latency(space, x, repeats=1, warmup=0)
    assert expected_cost(space, table, x).of(ARCH) > 0
    with pytest.raises(SpaceError, match="measured with example inputs; pass them with the table"):
        expected_cost(space, table)
