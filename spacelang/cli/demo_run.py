"""The main job, end to end: search, draw, retrain larger, test, export, check.

Strategies, spaces and evaluators are resolved by name when the job runs: the core imports no leaf.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from ..costs import profile
from ..errors import SpaceError
from ..experiment import Experiment
from ..language import Cell, model_context
from ..quiet import quiet
from ..randomness import torch_generators_kept
from ..results import draw, export_onnx, load_bundle, save_bundle
from .epoch_bar import ProgressBar

# Fixed, because the number of threads changes the last bits of a sum and so the result; one, because
# on networks this small two are hardly faster, and far slower on a machine that is busy.
THREADS = 1
# Notes about GPUs, workers and tips are kept off the screen.
_NOISY = ("lightning.pytorch", "lightning.fabric", "torch.onnx")
# On 8x8 images a 5x5 operation, dilated or separable twice over, sees little but the padding.
OPERATIONS = ("max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_3x3")
BUNDLE = "network"
CONTENTS = {
    "report.html": "the search as a page: open it in a browser",
    "experiment.yaml": "space, strategy, evaluator, seed and versions of the search",
    "decisions.json": "the decisions of the space",
    "epochs.jsonl": "what the search had come to after each epoch",
    "search.yaml": "the best architecture of each epoch",
    "architectures": "the found architecture as YAML",
    "cells.svg": "the found cells, drawn",
    "cells.png": "the same for slides",
    "network.onnx": "the trained network for onnxruntime",
    BUNDLE: "its weights (safetensors) and architecture (YAML), with a checksum",
    "checkpoints": "what an interrupted search goes on from",
    "logs": "probabilities and accuracies of the search, for TensorBoard and as CSV",
    "retraining": "logs of the retraining",
}


@dataclass(frozen=True)
class Plan:
    """Sizes of the job; the defaults reach the accuracy that the README states."""

    directory: Path
    seed: int = 0
    search_epochs: int = 10
    epochs: int = 10
    search_width: int = 8
    search_cells: int = 3
    width: int = 16
    cells: int = 5
    batch_size: int = 32


@dataclass(frozen=True)
class Outcome:
    """Result of the job: the architecture dict, and the network's accuracy on the held-out images."""

    architecture: Mapping[str, Any]
    test_accuracy: float


def run(plan: Plan, console: Console | None = None) -> Outcome:
    """Do the whole job below `plan.directory`, saying on `console` what happens.

    Raises:
        SpaceError: The folder cannot be written, or the exported network differs from the trained one.
    """
    console = console or Console(highlight=False)
    start = time.perf_counter()
    with quiet(_NOISY, logging.ERROR), _threads(THREADS), torch_generators_kept():
        splits = import_module("spacelang.evaluators.data").digits()
        what = f"DARTS on {len(splits.train)} images of handwritten digits"
        _say(console, "1/4  Search", f"{what}; {plan.search_width} channels, {plan.search_cells} cells")
        architecture = _search(plan, splits, console)
        draw(architecture, plan.directory / "cells.svg")
        draw(architecture, plan.directory / "cells.png")

        _say(console, "2/4  Retrain", f"the found cells at {plan.width} channels, {plan.cells} cells")
        model, evaluator = _retrain(plan, splits, architecture, console)

        _say(console, "3/4  Test", f"{len(splits.test)} images that nothing before has seen")
        test_accuracy = _test(model, evaluator, splits)
        console.print(f"test accuracy [bold]{test_accuracy:.2%}[/bold]")

        _say(console, "4/4  Export", "ONNX, safetensors")
        _export(plan, model, architecture, test_accuracy, splits, console)
    _summarise(plan, test_accuracy, time.perf_counter() - start, console)
    return Outcome(architecture, test_accuracy)


def _search(plan: Plan, splits: Any, console: Console) -> dict[str, Any]:
    """Search the cells with first-order DARTS, as the paper does, and return the architecture dict."""
    data = import_module("spacelang.evaluators.data")
    evaluators = import_module("spacelang.evaluators")
    strategies = import_module("spacelang.strategies")

    space = _space(splits, plan.search_width, plan.search_cells, operations=OPERATIONS)
    train, val = data.search_loaders(splits.train, batch_size=plan.batch_size)
    evaluator = evaluators.Lightning(
        evaluators.DartsTrainingModule(
            learning_rate=0.05, eta_min=1e-3, auxiliary_loss_weight=0.0, max_epochs=plan.search_epochs
        ),
        train_dataloaders=train,
        val_dataloaders=val,
        **_trainer_arguments(plan.search_epochs, ProgressBar(console, "search")),
    )
    # The paper's rate of 3e-4 is for thousands of steps; these are a few hundred.
    strategy = strategies.DARTS(learning_rate=3e-3)
    experiment = Experiment(space, evaluator, strategy, directory=plan.directory, seed=plan.seed)
    experiment.run()
    _show(space, experiment.best, console)
    return experiment.best


def _retrain(
    plan: Plan, splits: Any, architecture: Mapping[str, Any], console: Console
) -> tuple[nn.Module, Any]:
    """Train the architecture larger, with fresh weights, on all images but the held-out ones."""
    data = import_module("spacelang.evaluators.data")
    evaluators = import_module("spacelang.evaluators")

    torch.manual_seed(plan.seed)
    with model_context(architecture):
        model = _space(splits, plan.width, plan.cells, drop_path_prob=0.1)
    train, _ = data.retrain_loaders(splits, batch_size=plan.batch_size)
    evaluator = evaluators.Lightning(
        evaluators.DartsTrainingModule(
            learning_rate=0.05, auxiliary_loss_weight=0.0, label_smoothing=0.1, max_epochs=plan.epochs
        ),
        train_dataloaders=train,
        **_trainer_arguments(plan.epochs, ProgressBar(console, "retraining"), enable_checkpointing=False),
    )
    evaluator.fit(model, directory=plan.directory / "retraining")
    return model, evaluator


def _test(model: nn.Module, evaluator: Any, splits: Any) -> float:
    """Return the accuracy on the held-out images."""
    _, test = import_module("spacelang.evaluators.data").retrain_loaders(splits)
    return float(evaluator.test(model, test)["test_acc"])


def _export(
    plan: Plan,
    model: nn.Module,
    architecture: Mapping[str, Any],
    test_accuracy: float,
    splits: Any,
    console: Console,
) -> None:
    """Write ONNX file and bundle, and check that both give the trained network's outputs."""
    hub = import_module("spacelang.hub")
    images = torch.stack([splits.test[index][0] for index in range(8)])  # (8, 1, 8, 8)

    size = profile(model, images[:1])
    console.print(f"{size.parameters:,} parameters, {size.macs / 1e6:.1f} million multiply-adds an image")
    with console.status("exporting, and comparing with PyTorch"):
        exported = export_onnx(model, plan.directory / "network.onnx", images, arch=architecture)
    console.print(f"ONNX: largest difference from PyTorch in onnxruntime {exported.max_difference:.1e}")
    metadata = {"test_accuracy": test_accuracy, "seed": plan.seed}
    save_bundle(model, architecture, plan.directory / BUNDLE, metadata=metadata)
    loaded = load_bundle(plan.directory / BUNDLE, space=hub.DARTS).model
    assert loaded is not None, "a bundle loaded with its space has a model"
    with torch.no_grad():
        if not torch.equal(model.eval()(images), loaded.eval()(images)):
            raise SpaceError(
                f"the network loaded from '{plan.directory / BUNDLE}' differs from the trained one."
            )
    console.print("bundle: loaded again, same outputs bit for bit")


def _space(splits: Any, width: int, cells: int, **options: Any) -> Any:
    """Build the DARTS space for these images; inside `model_context` the network of an architecture."""
    channels, size, _ = splits.image_shape
    dataset = (channels, size, splits.num_classes)
    return import_module("spacelang.hub").DARTS(width, cells, dataset, **options)


def _trainer_arguments(epochs: int, bar: ProgressBar, **more: Any) -> dict[str, Any]:
    """Return the Trainer arguments of both trainings, on the CPU, where results repeat."""
    return {
        "max_epochs": epochs,
        "accelerator": "cpu",
        "devices": 1,
        "gradient_clip_val": 5.0,
        "log_every_n_steps": 10,
        "num_sanity_val_steps": 0,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [bar],
        **more,
    }


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _say(console: Console, title: str, text: str) -> None:
    console.print(f"\n[bold]{title}[/bold]  {text}")


def _show(space: nn.Module, architecture: Mapping[str, Any], console: Console) -> None:
    """Print the cells: for each node its two operations and what they read, named as in the picture."""
    table = Table(title="the found architecture")
    for heading in ("cell", "node", "operation", "reads"):
        table.add_column(heading)
    cells = {cell.label: cell.topology for cell in space.modules() if isinstance(cell, Cell)}
    for label, topology in cells.items():
        for node in topology.nodes:
            for op, source in topology.slots(node):
                read = _node_name(architecture[source.label])
                table.add_row(label, _node_name(node), architecture[op.label], read)
        table.add_section()
    console.print(table)


def _node_name(index: int) -> str:
    return ("c_{k-2}, the cell before last", "c_{k-1}, the last cell")[index] if index < 2 else f"{index - 2}"


def _summarise(plan: Plan, test_accuracy: float, seconds: float, console: Console) -> None:
    """Say what is in the run folder, and how to load the result."""
    _say(console, "Done", f"in {seconds:.0f} s: {test_accuracy:.2%} on the held-out images")
    table = Table(title=f"in {plan.directory}", show_header=False)
    for path in sorted(plan.directory.iterdir()):
        table.add_row(path.name + ("/" if path.is_dir() else ""), CONTENTS.get(path.name, ""))
    console.print(table)
    console.print("Load the trained network in Python:\n")
    for line in loading_lines(plan.directory):
        console.print(f"    {line}", markup=False, soft_wrap=True)


def loading_lines(directory: Path) -> tuple[str, str, str]:
    """Return the three lines of Python that load the trained network of a run folder."""
    return (
        "from spacelang import load_bundle",
        "from spacelang.hub import DARTS",
        f"model = load_bundle({(directory / BUNDLE).as_posix()!r}, space=DARTS).model",
    )
