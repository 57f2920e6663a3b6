"""`spacelang retrain`: train a found architecture from new weights, and test it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import SpaceError
from .runs import architecture_in
from .search_command import FOREIGN_WORDS, split_words, words_argument

if TYPE_CHECKING:
    from .configuration import Configuration

BUNDLE = "network"


@click.command("retrain", context_settings=FOREIGN_WORDS, add_help_option=False)
@words_argument
def command(words: tuple[str, ...]) -> None:
    """Train the architecture ARCH.yaml on all training data, and test it.

    Its space, evaluator and data are those of the run folder it is in, or of --config CONFIG.yaml; any value
    can be changed: `spacelang retrain run/architectures/1.yaml --space.width 36 --trainer.max_epochs 100`.
    """
    if not words or words[0] == "--help":
        with click.get_current_context() as context:
            click.echo(context.get_help())
        return
    file, rest = split_words(words)
    if file is None:
        raise click.UsageError("name an architecture: spacelang retrain run/architectures/1.yaml.")
    from ..files import load_yaml  # late: torch
    from .configuration import read_configuration

    arch = architecture_in(load_yaml(file), file)
    config, rest = _configuration_of(file, rest)
    configuration = read_configuration(config, rest)
    directory = configuration.values.get("directory") if _is_given("--directory", rest) else None
    folder = Path(directory or config.parent / f"retrained-{file.stem}")
    if folder.is_dir() and any(folder.iterdir()):
        raise SpaceError(f"the folder {str(folder)!r} already holds files; type --directory with a new name.")
    metrics = _train(configuration, arch, folder)
    click.echo(", ".join(f"{name} {value:.6g}" for name, value in metrics.items()))
    click.echo(f"the trained network: {folder / BUNDLE}")
    click.echo(f"for onnxruntime:     spacelang export {folder / BUNDLE} network.onnx")


def _is_given(flag: str, words: list[str]) -> bool:
    return any(word.partition("=")[0] == flag for word in words)


def _configuration_of(architecture: Path, words: list[str]) -> tuple[Path, list[str]]:
    """Return the configuration that belongs to an architecture, and the words without its name.

    Raises:
        SpaceError: There is none.
    """
    from .configuration import configuration_file

    if "--config" in words[:-1]:
        at = words.index("--config")
        return Path(words[at + 1]), words[:at] + words[at + 2 :]
    file = configuration_file(architecture.parent.parent)
    if not file.exists():
        raise SpaceError(
            f"'{architecture}' is not in a folder that `spacelang search` made; type --config CONFIG.yaml, "
            "with a space, data and an evaluator (`spacelang init` writes one)."
        )
    return file, words


def _train(configuration: Configuration, arch: Mapping[str, Any], folder: Path) -> dict[str, float]:
    """Train, test and save; return the metrics."""
    import torch
    from lightning.pytorch import LightningDataModule
    from rich.console import Console

    from ..files import write_atomic
    from ..language import model_context
    from ..randomness import torch_generators_kept
    from ..results import save_bundle
    from .configuration import configuration_file
    from .configured import configured_data, configured_evaluator, retrain_loaders
    from .epoch_bar import ProgressBar

    data = configured_data(configuration)
    loaders, test = retrain_loaders(configuration, data)
    bar = ProgressBar(Console(stderr=True), "training")
    evaluator = configured_evaluator(configuration, loaders, [bar])
    with torch_generators_kept():
        torch.manual_seed(configuration.values.get("seed", 0))
        with model_context(arch):
            model = configuration.make("space")
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(configuration_file(folder), configuration.text.encode())
        with warnings.catch_warnings():  # the test data is for the end
            warnings.filterwarnings("ignore", message="You defined a `validation_step`")
            evaluator.fit(model, directory=folder)
        metrics = evaluator.validate(model) if test is None else evaluator.test(model, test)
    shape = None if isinstance(data, LightningDataModule) else list(data.image_shape)
    save_bundle(model, arch, folder / BUNDLE, metadata={"metrics": metrics, "input_shape": shape})
    return dict(metrics)
