"""The Trainer of a fit: the user's settings hold, and files go where they belong."""

from __future__ import annotations

import csv
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn
from torch.utils.data import DataLoader

from spacelang.evaluators import Classification, ClassificationModule, Lightning
from spacelang.evaluators.training.trainer_settings import make_trainer, trainer_source

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")


def weights(net: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in net.parameters()])


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# ---- the user's Trainer settings hold


@pytest.mark.parametrize("with_trainer", [False, True])
def test_gradient_clipping(data, quiet, make_net: Callable, with_trainer: bool) -> None:
    module = ClassificationModule(learning_rate=1.0, optimizer=torch.optim.SGD)
    settings = {"max_epochs": 1, "limit_train_batches": 1, "gradient_clip_val": 1e-2, **quiet}
    source = (Trainer(**settings),) if with_trainer else ()
    evaluator = Lightning(module, *source, **data, **({} if with_trainer else settings))
    net = make_net()
    before = weights(net)
    evaluator.fit(net)
    # one step of plain SGD with learning rate 1: the change is the clipped gradient
    assert float((weights(net) - before).norm()) == pytest.approx(1e-2, rel=1e-3)


def test_learning_rate_scheduler(data, quiet, make_net: Callable) -> None:
    class Halving(ClassificationModule):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=self.hparams.learning_rate)
            return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)]

    rates = Rates()
    Lightning(Halving(learning_rate=0.8), max_epochs=3, **data, **quiet).fit(make_net(), callbacks=[rates])
    assert rates.seen == [0.8, 0.4, 0.2]


class Rates(Callback):
    """Record the learning rate of each epoch."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


@pytest.mark.parametrize("with_trainer", [False, True])
def test_unused_parameters_reach_ddp_only(data, quiet, make_net: Callable, with_trainer: bool) -> None:
    def made(**settings):
        settings |= quiet
        source = trainer_source(Trainer(**settings), {}) if with_trainer else trainer_source(None, settings)
        return make_trainer(source, unused_parameters=True).strategy

    assert made(strategy="ddp", devices=2)._ddp_kwargs == {"find_unused_parameters": True}
    assert made(strategy="ddp_find_unused_parameters_false", devices=2)._ddp_kwargs == {
        "find_unused_parameters": False
    }
    assert type(made(devices=1)).__name__ == "SingleDeviceStrategy"


def test_fast_dev_run_and_barebones(data, quiet, make_net: Callable, folders: Path) -> None:
    assert "val_loss" in Classification(fast_dev_run=True, **data, **quiet).evaluate(make_net())
    bare = Classification(barebones=True, max_epochs=1, accelerator="cpu", **data)
    assert bare.fit(make_net()).global_step == 8
    assert files_below(folders) == set()


# ---- what is written, and where


@pytest.mark.parametrize("with_trainer", [False, True])
def test_everything_is_written_below_the_directory(
    data, quiet, make_net: Callable, folders: Path, with_trainer: bool
) -> None:
    settings = {"max_epochs": 1, "log_every_n_steps": 1, **quiet}
    if with_trainer:  # a Trainer's own defaults would log and save into the working folder
        evaluator = Lightning(ClassificationModule(), Trainer(**settings), **data)
    else:
        evaluator = Classification(**settings, **data)
    evaluator.fit(make_net(), directory=folders / "run")
    written = files_below(folders)
    assert {name.split("/")[0] for name in written} == {"run"}
    assert "run/logs/csv/version_0/metrics.csv" in written
    assert any(name.startswith("run/logs/tensorboard/version_0/events") for name in written)
    assert any(name.endswith(".ckpt") for name in written) == with_trainer
    with open(folders / "run/logs/csv/version_0/metrics.csv") as file:
        columns = next(csv.reader(file))
    assert {"train_loss", "train_acc", "val_loss", "val_acc"} <= set(columns)


def test_the_default_directory_is_a_fresh_one_in_the_cache(
    data, quiet, make_net: Callable, folders: Path
) -> None:
    evaluator = Classification(max_epochs=1, **data, **quiet)
    state = torch.get_rng_state()
    for _ in range(2):
        torch.set_rng_state(state)
        evaluator.fit(make_net())
    assert len(list((folders / "cache/runs").iterdir())) == 2
    assert {name.split("/")[0] for name in files_below(folders)} == {"cache"}


@pytest.mark.slow
def test_the_users_folders_and_loggers_stay_theirs(data, quiet, make_net: Callable, folders: Path) -> None:
    Classification(max_epochs=1, default_root_dir=folders / "mine", **data, **quiet).fit(make_net())
    assert {name.split("/")[0] for name in files_below(folders)} == {"mine"}
    trainer = Trainer(max_epochs=1, default_root_dir=folders / "also", enable_checkpointing=False, **quiet)
    Lightning(ClassificationModule(), trainer, **data).fit(make_net())
    assert (folders / "also/logs").is_dir()
    logger = CSVLogger(folders / "logger", name="x")
    Classification(max_epochs=1, logger=logger, **data, **quiet).fit(make_net(), directory=folders / "run")
    assert not (folders / "run").exists()
    assert (folders / "logger/x/version_0/hparams.yaml").is_file()
    Classification(max_epochs=1, logger=False, **data, **quiet).fit(make_net(), directory=folders / "run")
    assert not (folders / "run").exists()


# ---- checkpoints


class WatchedIO(TorchCheckpointIO):
    """Record how checkpoints are written and read."""

    def __init__(self) -> None:
        self.saved: list[str] = []
        self.loaded: list[tuple[str, bool | None]] = []

    def save_checkpoint(self, checkpoint, path, storage_options=None) -> None:
        self.saved.append(Path(path).name)
        super().save_checkpoint(checkpoint, path, storage_options)

    def load_checkpoint(self, path, map_location=None, weights_only=None):
        self.loaded.append((Path(path).name, weights_only))
        return super().load_checkpoint(path, map_location, weights_only)


@pytest.mark.slow
@pytest.mark.parametrize("with_trainer", [False, True])
def test_a_fit_goes_on_from_a_checkpoint(
    data, quiet, make_net: Callable, folders: Path, with_trainer
) -> None:
    data["train_dataloaders"] = DataLoader(data["train_dataloaders"].dataset, batch_size=32)  # in order

    def fit(epochs: int, directory: str, ckpt_path=None) -> tuple[torch.Tensor, WatchedIO, Trainer]:
        net, io = make_net(), WatchedIO()
        saver = ModelCheckpoint(folders / directory, filename="last", save_top_k=1)
        settings = {"max_epochs": epochs, **quiet}
        if with_trainer:
            evaluator = Lightning(ClassificationModule(), Trainer(**settings), **data)
        else:
            evaluator = Classification(**settings, **data)
        trainer = evaluator.fit(
            net,
            callbacks=[saver],
            directory=folders / directory,
            ckpt_path=ckpt_path,
            checkpoint_io=io,
        )
        assert trainer.checkpoint_callbacks == [saver]  # in place of a Trainer's default one
        assert trainer.callbacks[-1] is saver
        return weights(net), io, trainer

    whole, _, _ = fit(2, "whole")
    part, io, _ = fit(1, "part")
    assert (io.saved, io.loaded) == (["last.ckpt"], [])
    resumed, io, trainer = fit(2, "rest", ckpt_path=folders / "part/last.ckpt")
    assert io.loaded == [("last.ckpt", True)]
    assert trainer.global_step == 16
    assert torch.equal(resumed, whole)
    assert not torch.equal(part, whole)


def test_a_checkpoint_that_holds_code_is_refused(data, quiet, make_net: Callable, folders: Path) -> None:
    evaluator = Classification(max_epochs=1, **data, **quiet)
    path = folders / "whole_object.ckpt"
    torch.save({"state_dict": {}, "object": make_net()}, path)
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        evaluator.fit(make_net(), ckpt_path=path)


@pytest.mark.parametrize(
    "asked", [{"enable_checkpointing": True}, {"callbacks": [ModelCheckpoint(save_last=True)]}]
)
def test_checkpoints_are_saved_when_asked_for(data, quiet, make_net: Callable, folders: Path, asked) -> None:
    Classification(max_epochs=1, **asked, **data, **quiet).fit(make_net(), directory=folders / "run")
    assert any(name.endswith(".ckpt") for name in files_below(folders / "run"))


# ---- interruption


def test_ctrl_c_arrives_as_keyboard_interrupt(data, quiet, make_net: Callable) -> None:
    class Interrupt(Callback):
        def on_train_batch_start(self, *args) -> None:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        Classification(max_epochs=1, **data, **quiet).fit(make_net(), callbacks=[Interrupt()])
    assert signal.getsignal(signal.SIGINT) is before


def test_a_system_exit_of_the_users_passes_through(data, quiet, make_net: Callable) -> None:
    class Leave(Callback):
        def on_train_batch_start(self, *args) -> None:
            raise SystemExit(3)

    with pytest.raises(SystemExit) as stop:
        Classification(max_epochs=1, **data, **quiet).fit(make_net(), callbacks=[Leave()])
    assert stop.value.code == 3


@pytest.mark.parametrize(("columns", "delimiter"), [("80", "\n"), ("200", " ")])
def test_metrics_beside_a_bar_do_not_run_over_a_narrow_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: str, delimiter: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    bar = make_trainer(trainer_source(None, {"logger": False}), directory=tmp_path).progress_bar_callback
    assert isinstance(bar, RichProgressBar)
    assert bar.theme.metrics_text_delimiter == delimiter
    hidden = trainer_source(None, {"logger": False, "enable_progress_bar": False})
    assert make_trainer(hidden, directory=tmp_path).progress_bar_callback is None
    own = TQDMProgressBar()
    theirs = trainer_source(None, {"logger": False, "callbacks": [own]})
    assert isinstance(make_trainer(theirs, directory=tmp_path).progress_bar_callback, TQDMProgressBar)
