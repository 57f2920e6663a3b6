"""The benchmarks run, in their smallest form, and compare equal things."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

pytestmark = pytest.mark.slow

Load = Callable[[str], ModuleType]
SMALL = {"width": 2, "cells": 3, "batch": 2, "warmup": 0, "steps": 1}
SMALL |= {"device": torch.device("cpu"), "checkpoint": False}


def printed(module: ModuleType, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys) -> dict:
    """Return the output of a benchmark with --json."""
    monkeypatch.setattr(sys, "argv", [str(module.__file__), *arguments, "--json"])
    module.main()
    return json.loads(capsys.readouterr().out)


def test_all_forms_of_a_search_step_have_the_same_gradients(benchmark_script: Load) -> None:
    module = benchmark_script("supernet_step")
    assert module.gradient_difference(Namespace(**SMALL)) < 1e-10


def test_the_gradient_check_can_fail(benchmark_script: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    module = benchmark_script("supernet_step")
    original = module.edge_by_edge

    def changed(space):
        supernet = original(space)
        with torch.no_grad():
            next(supernet.parameters()).mul_(1.001)
        return supernet

    monkeypatch.setattr(module, "edge_by_edge", changed)
    assert module.gradient_difference(Namespace(**SMALL)) > 1e-6


def test_times_and_memory_of_a_search_step(
    benchmark_script: Load, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = benchmark_script("supernet_step")
    times = module.times(Namespace(**SMALL))
    executions = module.executions(SMALL["device"])
    for name in executions:
        assert times[f"{name}_ratio"] == pytest.approx(times["plain_ms"] / times[f"{name}_ms"])
    arguments = ["--width", "2", "--cells", "3", "--batch", "2", "--form"]
    forms = ("plain", *executions)
    plain, shared, *native = [printed(module, [*arguments, form], monkeypatch, capsys) for form in forms]
    for each in (plain, shared, *native):
        assert each.keys() == plain.keys() >= {"peak_bytes"}
    assert plain["saved_bytes_weight_update"] == plain["saved_bytes_architecture_update"]
    assert shared["saved_bytes_weight_update"] < shared["saved_bytes_architecture_update"]
    assert shared["saved_bytes_architecture_update"] < plain["saved_bytes_architecture_update"]


def test_a_step_on_a_gpu_needs_one(
    repository: Path, benchmark_script: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(repository / "benchmarks")
    module = benchmark_script("gpu_step")
    monkeypatch.setattr(sys, "argv", ["gpu_step.py"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"gpu_step\.py needs a GPU, and PyTorch sees none here"):
        module.main()
    events = [Namespace(key=key, count=3) for key in ("cudaGraphLaunch", "cudaLaunchKernel", "aten::add")]
    assert module.launches(Namespace(key_averages=lambda: events)) == 6
    row = module.summary([0.1, 0.2], [0.4, 0.4]) | {"peak_bytes": 5e6, "reserved_bytes": 6e6, "launches": 6}
    result = {"gpu": "a GPU", "torch": "2", "width": 16, "cells": 8, "batch": 8, "forms": {"native": row}}
    assert module.table(result).splitlines()[-1] == "| native | 150.0 | 3.00 (2.00 to 4.00) | 5 | 6 | 6 |"


def test_peers_are_compared_in_rounds_and_written_into_the_readme(
    benchmark_script: Load, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NNI, whose environment takes minutes, is left out where it cannot be made."""
    module = benchmark_script("peers")
    monkeypatch.setattr(sys, "argv", ["peers.py", str(tmp_path), "--rounds", "3", "--only", "quark0", "NNI"])
    monkeypatch.setattr(module, "PYTHONS", ("no-such-python",))
    answer = """import json, sys
for step, _ in enumerate(sys.stdin):
    print(json.dumps({"seconds": 1.0 + step, "peak_bytes": 5e6}), flush=True)
"""
    monkeypatch.setattr(module, "command", lambda name, args, nni: [sys.executable, "-c", answer])
    monkeypatch.setattr(module, "machine", lambda: "a machine")
    module.main()
    (result,) = json.loads((tmp_path / "results.json").read_text()).values()
    assert result["contestants"] == {  # of the second to the fourth step
        "quark0": {"ms": 3000.0, "ratio": 1, "ratio_lowest": 1, "ratio_highest": 1, "peak_bytes": 5e6}
    }
    readme = (repository / "benchmarks" / "README.md").read_text()
    new = module.written(readme, "the tables")
    assert module.written(new, "the tables") == new
    assert "<!-- peers -->\n\nthe tables\n\n<!-- end of peers -->" in new
    slower = {"quark0": {"seconds": 4.0}, "native": {"seconds": 1.0, "peak_bytes": 1}}
    assert module.summary("native", "quark0", [slower])["ratio"] == 4


def test_steps_of_strategies_are_compared_with_darts(
    benchmark_script: Load, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    size = ["--width", "4", "--cells", "3", "--batch", "2", "--steps", "1", "--execution", "torch"]
    result = printed(benchmark_script("strategies_step"), [*size, "--only", "GDAS"], monkeypatch, capsys)
    assert list(result) == ["DARTS", "GDAS"]
    assert result["GDAS"]["ratio"] == pytest.approx(result["DARTS"]["ms"] / result["GDAS"]["ms"])


def test_context_build(
    benchmark_script: Load, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--width", "2", "--cells", "3", "--pairs", "2"]
    result = printed(benchmark_script("context_build"), arguments, monkeypatch, capsys)
    assert result["ratio_lowest"] <= result["ratio"] <= result["ratio_highest"]


def test_hub_onnx(
    benchmark_script: Load, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = printed(benchmark_script("hub_onnx"), ["--only", "autoformer-d*"], monkeypatch, capsys)
    (entry,) = result["entries"]
    assert (entry["name"], entry["image"], result["failed"]) == ("autoformer-digits", [1, 8, 8], [])
    assert entry["difference"] < 1e-4 < entry["output"]


def test_proposal_cost(
    benchmark_script: Load, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = benchmark_script("proposal_cost")
    result = printed(module, ["--only", "Random", "EAS", "--trials", "3"], monkeypatch, capsys)
    assert {name: row["trials"] for name, row in result.items()} == {"Random": 3, "EAS": 3}
    assert all(row["ms_a_trial"] > 0 for row in result.values())


def test_import_time(benchmark_script: Load) -> None:
    torch_s, added = benchmark_script("import_time").seconds("import spacelang")
    assert 0 < added < torch_s


@pytest.mark.parametrize("counted", [False, True])
def test_growth(
    counted: bool, benchmark_script: Load, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--decisions", "2", "4", "--depths", "2", "4", "--levels", "2", "4", "--trials", "8", "16"]
    arguments += ["--calls"] if counted else []
    result = printed(benchmark_script("growth"), arguments, monkeypatch, capsys)
    assert result["independent decisions"]["sizes"] == [2, 4]
    assert {"construction", "trace", "report"} <= result["blocks of a Repeat"].keys()
    assert all(len(row["taken"]) == 2 for name, row in result["trials"].items() if name != "sizes")
    assert isinstance(result["trials"]["best"]["taken"][0], int) == counted


def test_calls_are_counted(benchmark_script: Load) -> None:
    """The lambda, `sorted`, and `setprofile` that ends the count."""
    assert benchmark_script("growth").calls(lambda: sorted([2, 1])) == ([1, 2], 3)


def test_an_exponent_is_that_of_the_larger_sizes(benchmark_script: Load) -> None:
    exponent = benchmark_script("growth").exponent
    assert exponent([1, 2, 4, 8], [9, 9, 16, 64]) == pytest.approx(2)
