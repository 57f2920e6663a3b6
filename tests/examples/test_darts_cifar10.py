"""The flow of NNI's DARTS tutorial, and the two cells it prints."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from spacelang import SpaceError, load_bundle, model_context
from spacelang.hub import DARTS as DartsSpace
from spacelang.hub import architecture

pytestmark = pytest.mark.slow

# As the tutorial prints them; an input is an int.
PLAIN = {
    "normal/op_2_0": "sep_conv_3x3",
    "normal/input_2_0": 1,
    "normal/op_2_1": "sep_conv_3x3",
    "normal/input_2_1": 0,
    "normal/op_3_0": "sep_conv_3x3",
    "normal/input_3_0": 1,
    "normal/op_3_1": "sep_conv_3x3",
    "normal/input_3_1": 2,
    "normal/op_4_0": "sep_conv_3x3",
    "normal/input_4_0": 1,
    "normal/op_4_1": "sep_conv_3x3",
    "normal/input_4_1": 0,
    "normal/op_5_0": "sep_conv_3x3",
    "normal/input_5_0": 1,
    "normal/op_5_1": "max_pool_3x3",
    "normal/input_5_1": 0,
    "reduce/op_2_0": "sep_conv_3x3",
    "reduce/input_2_0": 0,
    "reduce/op_2_1": "sep_conv_3x3",
    "reduce/input_2_1": 1,
    "reduce/op_3_0": "dil_conv_5x5",
    "reduce/input_3_0": 2,
    "reduce/op_3_1": "sep_conv_3x3",
    "reduce/input_3_1": 0,
    "reduce/op_4_0": "dil_conv_5x5",
    "reduce/input_4_0": 2,
    "reduce/op_4_1": "sep_conv_5x5",
    "reduce/input_4_1": 1,
    "reduce/op_5_0": "sep_conv_5x5",
    "reduce/input_5_0": 4,
    "reduce/op_5_1": "dil_conv_5x5",
    "reduce/input_5_1": 2,
}
WITH_TRICKS = {
    "normal/op_2_0": "sep_conv_3x3",
    "normal/input_2_0": 0,
    "normal/op_2_1": "sep_conv_3x3",
    "normal/input_2_1": 1,
    "normal/op_3_0": "sep_conv_3x3",
    "normal/input_3_0": 1,
    "normal/op_3_1": "skip_connect",
    "normal/input_3_1": 0,
    "normal/op_4_0": "sep_conv_3x3",
    "normal/input_4_0": 0,
    "normal/op_4_1": "max_pool_3x3",
    "normal/input_4_1": 1,
    "normal/op_5_0": "sep_conv_3x3",
    "normal/input_5_0": 0,
    "normal/op_5_1": "sep_conv_3x3",
    "normal/input_5_1": 1,
    "reduce/op_2_0": "max_pool_3x3",
    "reduce/input_2_0": 0,
    "reduce/op_2_1": "sep_conv_5x5",
    "reduce/input_2_1": 1,
    "reduce/op_3_0": "dil_conv_5x5",
    "reduce/input_3_0": 2,
    "reduce/op_3_1": "max_pool_3x3",
    "reduce/input_3_1": 0,
    "reduce/op_4_0": "max_pool_3x3",
    "reduce/input_4_0": 0,
    "reduce/op_4_1": "sep_conv_3x3",
    "reduce/input_4_1": 2,
    "reduce/op_5_0": "max_pool_3x3",
    "reduce/input_5_0": 0,
    "reduce/op_5_1": "skip_connect",
    "reduce/input_5_1": 2,
}


def test_the_tutorial_runs_from_search_to_saved_network(
    example: Callable[[str], ModuleType],
    small_cifar10: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    main = example("darts_cifar10").main
    out = tmp_path / "out"
    arguments = ["--fast-dev-run", "--data-root", str(small_cifar10), "--directory", str(out)]
    arguments += ["--width", "2", "--cells", "3", "--seed", "3"]
    main(arguments)
    assert f"the network is in {out / 'network'}" in capsys.readouterr().out

    bundle = load_bundle(out / "network", space=DartsSpace)
    network = bundle.model.train()
    assert len(network.cells) == 20
    logits, auxiliary = network(torch.randn(2, 3, 32, 32))
    assert logits.shape == auxiliary.shape == (2, 10)
    DartsSpace(width=2, num_cells=3).validate(bundle.arch)
    names = sorted(path.name for path in out.iterdir())
    assert names == ["network", "search", "training"]
    with (out / "training/logs/csv/version_0/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {"val_loss", "val_acc"} <= rows[-1].keys()

    with pytest.raises(SpaceError, match="already holds a run"):
        main(arguments)


@pytest.mark.parametrize(
    ("arch", "entry", "parameters"),
    [(PLAIN, "nni-tutorial", 4_281_166), (WITH_TRICKS, "nni-tutorial-tricks", 3_681_118)],
)
def test_the_cells_the_tutorial_prints(arch: dict[str, str | int], entry: str, parameters: int) -> None:
    with model_context(arch):
        model = DartsSpace(width=36, num_cells=20, dataset="cifar")
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert architecture(entry) == arch
