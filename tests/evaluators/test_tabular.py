"""Metrics from a table: reading it, drawing among seeds, epochs, simulated time, refusals."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from spacelang import Experiment, SpaceError
from spacelang.evaluators import Tabular
from spacelang.strategies.multi_trial import Random
from spacelang.trials import Maximize

from ..toys import trials as toy

A, B = {"layer": "conv", "width": 8}, {"layer": "skip", "width": 8}


def table(**columns: list[Any]) -> dict[str, list[Any]]:
    return {"arch": [json.dumps(A), json.dumps(B)], **columns}


def seeds() -> dict[str, list[Any]]:
    """A with three seeds, B with one; two epochs each."""
    return {
        "arch": [json.dumps(arch) for arch in (A, A, A, B)],
        "seed": [0, 1, 2, 0],
        "accuracy": [0.1, 0.2, 0.3, 0.9],
        "accuracy@1": [0.1, 0.2, 0.3, 0.9],
        "accuracy@0": [0.0, 0.1, 0.2, 0.8],
        "seconds": [10, 20, 30, 7],
    }


def write_csv(path: Path, columns: dict[str, list[Any]]) -> Path:
    import csv

    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def test_the_order_of_labels_does_not_matter() -> None:
    evaluator = Tabular(table(accuracy=[0.5, 0.6]))
    assert evaluator.evaluate_architecture({"width": 8, "layer": "skip"}) == {"accuracy": 0.6}
    assert len(evaluator) == 2
    assert list(evaluator.architectures()) == [A, B]


def test_files_and_columns_give_the_same(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    parquet.write_table(pa.table(seeds()), tmp_path / "t.parquet")
    found = []
    for source in (seeds(), write_csv(tmp_path / "t.csv", seeds()), str(tmp_path / "t.parquet")):
        torch.manual_seed(3)
        evaluator = Tabular(source)
        found.append([evaluator.evaluate_architecture(arch) for arch in (A, A, A, B)])
    assert found[0] == found[1] == found[2]


def test_a_data_frame(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(seeds())
    assert Tabular(frame).evaluate_architecture(B) == {"accuracy": 0.9, "seconds": 7.0}
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert Tabular(tmp_path / "t.csv").evaluate_architecture(B) == {"accuracy": 0.9, "seconds": 7.0}


def test_the_seed_draws_the_row() -> None:
    evaluator = Tabular(seeds())
    drawn = []
    for seed in range(60):
        torch.manual_seed(seed)
        drawn.append(evaluator.evaluate_architecture(A)["accuracy"])
        torch.manual_seed(seed)
        assert evaluator.evaluate_architecture(A)["accuracy"] == drawn[-1]
    assert all(10 <= drawn.count(value) <= 30 for value in (0.1, 0.2, 0.3))


def test_the_mean_over_rows() -> None:
    reports: list[Any] = []
    evaluator = Tabular(seeds(), average=True)
    found = evaluator.evaluate_architecture(A, lambda metrics, epoch: reports.append((epoch, metrics)))
    assert found == pytest.approx({"accuracy": 0.2, "seconds": 20})
    assert [epoch for epoch, _ in reports] == [0, 1]
    assert [metrics["accuracy"] for _, metrics in reports] == pytest.approx([0.1, 0.2])


def test_epochs_are_announced_in_order_with_their_share_of_the_time() -> None:
    reports: list[Any] = []
    evaluator = Tabular(seeds())
    evaluator.evaluate_architecture(B, lambda metrics, epoch: reports.append((epoch, metrics)))
    assert reports == [(0, {"accuracy": 0.8, "seconds": 3.5}), (1, {"accuracy": 0.9, "seconds": 7.0})]
    assert evaluator.seconds == 7


def test_columns_of_seconds_by_epoch() -> None:
    columns = table(**{"loss@0": [3, 3], "loss@9": [1, 2], "seconds@0": [5, 5], "seconds@9": [20, 21]})
    reports: list[Any] = []
    evaluator = Tabular(columns)
    found = evaluator.evaluate_architecture(B, lambda metrics, epoch: reports.append((epoch, metrics)))
    assert reports == [(0, {"loss": 3, "seconds": 5}), (9, {"loss": 2, "seconds": 21})]
    assert found == {"loss": 2, "seconds": 21}  # the last epoch is the end


def test_a_trial_that_is_stopped_costs_what_it_had_run() -> None:
    class Stop(Exception):
        pass

    def stop(metrics: dict[str, float], epoch: int) -> None:
        raise Stop

    evaluator = Tabular(seeds())
    with pytest.raises(Stop):
        evaluator.evaluate_architecture(B, stop)
    assert evaluator.seconds == 3.5
    evaluator.evaluate_architecture(B)
    assert evaluator.seconds == 10.5


def test_empty_cells(tmp_path: Path) -> None:
    columns = table(**{"acc": ["", 1], "acc@0": [0.5, 0.6], "acc@1": ["", 0.7], "acc@2": ["", 0.8]})
    evaluator = Tabular(write_csv(tmp_path / "t.csv", columns))
    epochs: list[int] = []
    assert math.isnan(evaluator.evaluate_architecture(A, lambda metrics, epoch: epochs.append(epoch))["acc"])
    assert epochs == [0]
    evaluator.evaluate_architecture(B, lambda metrics, epoch: epochs.append(epoch))
    assert epochs == [0, 0, 1, 2]


def test_only_some_metrics() -> None:
    columns = table(accuracy=[0.5, 0.6], remark=["good", "bad"])
    assert Tabular(columns, metrics=["accuracy"]).evaluate_architecture(A) == {"accuracy": 0.5}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"accuracy": [1]}, "no column 'arch'.*its columns are 'accuracy'"),
        ({"arch": [], "accuracy": []}, "no rows"),
        ({"arch": ["{}"], "accuracy": [1, 2]}, "differ in length"),
        ({"arch": ["{}"]}, "no metrics"),
        ({"arch": ["{}", "[1]"], "accuracy": [1, 2]}, r"row 2, column 'arch'.*got '\[1\]'"),
        ({"arch": ["conv"], "accuracy": [1]}, "row 1, column 'arch'.*got 'conv'"),
        (table(accuracy=[1, "high"]), "row 2, column 'accuracy': expected a number.*got 'high'"),
        (table(**{"accuracy@last": [1, 2]}), "'accuracy@last': the part after @ must be an epoch"),
        ({"arch": ["{}", "{ }"], "seed": [4, 4], "accuracy": [1, 2]}, "twice with the same seed: '4', '4'"),
    ],
)
def test_bad_tables(columns: dict[str, list[Any]], message: str) -> None:
    with pytest.raises(SpaceError, match=f"(?s)^the table: .*{message}"):
        Tabular(columns)


def test_a_metric_that_is_not_there() -> None:
    with pytest.raises(SpaceError, match=r"no metric 'acuracy'; it has 'accuracy'\. Closest: 'accuracy'"):
        Tabular(table(accuracy=[1, 2]), metrics=["acuracy"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.xlsx", b"", "ends in '.csv', '.parquet'; got '.xlsx'"),
        ("t.csv", b"", "no column 'arch'"),
        ("t.csv", b"arch,accuracy\n{},1,2\n", "row 1 has 3 cells; the header has 2"),
        ("t.csv", b"arch,accuracy,accuracy\n{},1,2\n", "the column 'accuracy' twice"),
        ("t.csv", b"\xff\xfe", "cannot be read"),
        ("t.parquet", b"arch", "is not a Parquet file"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SpaceError, match=message) as info:
        Tabular(tmp_path / name)
    assert name in str(info.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"cannot be read: .*No such file"):
        Tabular(tmp_path / "none.csv")


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SpaceError, match=r"pip install 'spacelang-nas\[parquet\]'"):
        Tabular(tmp_path / "t.parquet")


def test_an_unknown_architecture_is_refused_with_the_closest() -> None:
    evaluator = Tabular(table(accuracy=[1, 2]))
    with pytest.raises(SpaceError) as info:
        evaluator.evaluate_architecture({"layer": "skip", "width": 9, "depth": 2})
    assert "closest of its 2 has {'width': 8} where this one has {'depth': 2, 'width': 9}" in str(info.value)
    with pytest.raises(SpaceError, match=r"closest of its 2 has \{'width': 8\} where this one has \{\}"):
        evaluator.evaluate_architecture({"layer": "skip"})


@pytest.mark.slow
def test_a_search_over_a_table(tmp_path: Path) -> None:
    """All architectures of a conditional space, two seeds each; the number of the row is the metric."""
    space = toy.Conditional()
    archs = [json.dumps(arch) for arch in space.grid() for _ in range(2)]
    evaluator = Tabular({"arch": archs, "row": list(range(len(archs))), "seconds": [2.0] * len(archs)})
    runs = []
    for name in ("a", "b"):
        run = Experiment(
            space, evaluator, Random(), objectives=[Maximize("row")], directory=tmp_path / name, seed=4
        )
        run.run()
        runs.append(toy.trials_of(run))
    assert runs[0] == runs[1]
    assert len(runs[0]) == 28
    assert {trial.state for trial in run.history} == {"done"}
    drawn = {int(trial.metrics["row"]) % 2 for trial in run.history}
    assert drawn == {0, 1}
    assert evaluator.seconds == 2 * 28 * 2
