"""A search stops at the first number that is not finite, and can go back to its last good checkpoint."""

from __future__ import annotations

import shutil
import zipfile
from math import nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from spacelang import Experiment, LayerChoice, ModelSpace, SpaceError
from spacelang.errors import DivergenceError
from spacelang.evaluators import Lightning, LightningModule
from spacelang.strategies import DARTS, PDARTS
from spacelang.strategies.framework import Watch

from ..toys.search_script import strategies

ALL = ["darts", "darts-2", "pdarts", "pcdarts", "drnas", "sgas", "gumbel", "gdas", "proxyless"]
ALL += ["random", "spos", "enas"]


class Net(ModelSpace):
    """Two cells' worth of choices, small enough for a dozen searches a second."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        convs = [nn.Conv2d(4, 4, size, padding=size // 2) for size in (1, 3)]
        self.layer = LayerChoice({"one": convs[0], "three": convs[1], "skip": nn.Identity()}, label="layer")
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).mean(dim=(2, 3)))  # type: ignore[no-any-return]


class Squares(LightningModule):
    def __init__(self, rate: float = 0.05) -> None:
        super().__init__()
        self.model: Any = None
        self.rate = rate

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.mse_loss(self.model(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_acc", -self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.rate, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)]


def loader(samples: int = 12, bad: int | None = None) -> DataLoader[Any]:
    x = torch.randn(samples, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    if bad is not None:
        x[bad] = nan
    return DataLoader(TensorDataset(x, torch.zeros(samples, 2)), batch_size=4)


def make(folder: Path, strategy: Any = None, *, rate: float = 0.05, **arguments: Any) -> Experiment:
    settings = {"train_dataloaders": loader(), "val_dataloaders": loader(), "max_epochs": 3}
    settings |= {"enable_progress_bar": False, "logger": False, "accelerator": "cpu"}
    settings |= {"num_sanity_val_steps": 0}
    evaluator = Lightning(Squares(rate), **(settings | arguments))
    return Experiment(Net(), evaluator, strategy or DARTS(learning_rate=0.1), directory=folder)


@pytest.fixture(params=ALL)
def strategy(request: pytest.FixtureRequest) -> Any:
    if request.param == "pdarts":
        return PDARTS(overrides=({}, {"width": 4}), drops=(1,), skip_dropout=(0.1, 0.4), warmup_epochs=0)
    return strategies()[request.param]


def outcome(experiment: Experiment) -> tuple[Any, ...]:
    weights = [value.double().sum().item() for value in experiment.supernet.state_dict().values()]
    return experiment.best, weights


def test_nan_in_the_data_stops_every_search(tmp_path: Path, strategy: Any) -> None:
    experiment = make(tmp_path, strategy, train_dataloaders=loader(bad=5))
    words = r"loss of the (weights|logits)' step in epoch 0, batch 1 \(.* Every weight .* finite.*\.ckpt"
    with pytest.raises(DivergenceError, match=words):
        experiment.run()
    with pytest.raises(SpaceError, match="nothing was searched yet"):
        experiment.best  # noqa: B018
    assert not (tmp_path / "architectures").exists()


def test_a_huge_learning_rate_stops_every_search(tmp_path: Path, strategy: Any) -> None:
    with pytest.raises(DivergenceError, match=r"epoch 0, batch [012] .*not finite"):
        make(tmp_path, strategy, rate=1e38).run()
    (path,) = (tmp_path / "checkpoints").iterdir()
    state = torch.load(path, weights_only=True)
    assert all(value.isfinite().all() for value in state["state_dict"].values())


def test_nan_in_the_validation_data_stops_every_search(tmp_path: Path, strategy: Any) -> None:
    with pytest.raises(DivergenceError, match=r"(first validation batch|loss of the logits' step|None of)"):
        make(tmp_path, strategy, val_dataloaders=loader(bad=0), max_epochs=2).run()


@pytest.mark.parametrize("limit", ["max_epochs", "max_steps", "limit_train_batches"])
def test_an_absent_training_is_refused(tmp_path: Path, limit: str) -> None:
    with pytest.raises(SpaceError, match=f"would train nothing.* {limit}=0"):
        make(tmp_path, **{limit: 0}).run()


@pytest.mark.parametrize("name", ["darts", "spos"])
def test_data_without_a_batch_are_refused(tmp_path: Path, name: str) -> None:
    few = DataLoader(loader(3).dataset, batch_size=4, drop_last=True)
    for data in (DataLoader(loader(0).dataset), few, [loader(), few]):
        with pytest.raises(SpaceError, match=r"training loader .*no batch.* data set has [03] samples"):
            make(tmp_path, strategies()[name], train_dataloaders=data).run()


class Nothing(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(())


def test_an_endless_loader_that_ends_at_once_is_no_search(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"would train nothing.*no batch"):
        make(tmp_path, train_dataloaders=DataLoader(Nothing(), batch_size=4)).run()


def test_logits_that_are_not_finite_are_named(tmp_path: Path) -> None:
    with pytest.raises(DivergenceError, match=r"outcome of the logits' step.*not finite: logits of 'layer'"):
        make(tmp_path, DARTS(learning_rate=1e38, weight_decay=1.0)).run()


def test_a_diverged_search_goes_back_to_its_last_good_epoch(tmp_path: Path) -> None:
    """Once its data are mended, it ends bit for bit as if they had never been bad."""
    good = make(tmp_path / "good")
    good.run()

    class Spoiling(Squares):
        def on_train_epoch_start(self) -> None:
            if self.trainer.current_epoch == 1:
                self.trainer.train_dataloader.dataset.tensors[0][5] = nan

    first = make(tmp_path / "run")
    first.evaluator.module = Spoiling()
    with pytest.raises(DivergenceError, match=r"epoch 1, batch 1 .*the beginning of epoch 1\. .*resume=True"):
        first.run()
    again = make(tmp_path / "run")
    again.run(resume=True)
    assert outcome(again) == outcome(good)
    assert not (tmp_path / "run" / "diverged.yaml").exists()


def test_a_device_is_asked_for_many_numbers_at_once() -> None:
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_idx=0))
    trainer = SimpleNamespace(fit_loop=loop, current_epoch=0, world_size=1)
    module = nn.Linear(1, 1)
    module.device = torch.device("cuda")  # type: ignore[assignment]
    watch: Any = Watch(SimpleNamespace(trainer=trainer, module=module), dict)  # type: ignore[arg-type]
    looks = []
    watch.look = lambda: (looks.append(loop.epoch_loop.batch_idx), Watch.look(watch))

    def see_all() -> None:
        for batch in range(200):
            loop.epoch_loop.batch_idx = batch
            watch.see("The loss", torch.tensor(nan if batch == 60 else 1.0))

    with pytest.raises(DivergenceError, match="in epoch 0, batch 60 "):
        see_all()
    assert looks == [49, 99]


def test_a_diverged_search_goes_on_with_another_learning_rate(tmp_path: Path) -> None:
    with pytest.raises(DivergenceError, match="beginning of epoch 0"):
        make(tmp_path, DARTS(learning_rate=1e38, weight_decay=1.0), rate=1e38).run()
    seen: list[list[float]] = []

    class Rates(Squares):
        def on_train_epoch_start(self) -> None:
            optimizer: Any = self.trainer.optimizers[0]
            seen.append([group["lr"] for group in optimizer.param_groups])

    again = make(tmp_path, DARTS(learning_rate=0.1), max_epochs=4)
    again.evaluator.module = Rates(0.25)
    again.run(resume=True)
    assert torch.tensor(seen).flatten().tolist() == pytest.approx([0.25, 0.25, 0.125, 0.125])
    with pytest.raises(SpaceError, match=r"strategy\.learning_rate was 0\.1, now 0\.2"):  # it has ended well
        make(tmp_path, DARTS(learning_rate=0.2), max_epochs=4).run(resume=True)


def test_another_space_cannot_go_on_where_one_diverged(tmp_path: Path) -> None:
    with pytest.raises(DivergenceError):
        make(tmp_path, rate=1e38).run()
    other = make(tmp_path)
    other = Experiment(Net(8), other.evaluator, other.strategy, directory=tmp_path)
    with pytest.raises(SpaceError, match=r"space\.arguments\.width was missing, now 8"):
        other.run(resume=True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    make(folder, max_epochs=1).run()
    return folder / "checkpoints" / "last.ckpt"


def _refused(path: Path, words: str) -> None:
    with pytest.raises(SpaceError, match=rf"(?s)last\.ckpt.*{words}"):
        make(path.parent.parent, max_epochs=1).run(resume=True)


@pytest.fixture
def copied(checkpoint: Path, tmp_path: Path) -> Path:
    shutil.copytree(checkpoint.parent.parent, tmp_path / "run")
    return tmp_path / "run" / "checkpoints" / "last.ckpt"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda c: c["state_dict"]["model.network.head.weight"].fill_(torch.nan),
            "holds NaN in .*head.weight",
        ),
        (
            lambda c: c["callbacks"]["GradientSearch"]["logits"]["layer"].fill_(torch.nan),
            "NaN in 'logits/lay",
        ),
        (lambda c: c.pop("loops"), "lacks 'loops'"),
        (lambda c: c["state_dict"].pop("model.network.head.bias"), "lacks the weights .*head.bias"),
        (lambda c: c["callbacks"].pop("GradientSearch"), "lacks the state of the search"),
        (lambda c: c["callbacks"]["GradientSearch"].pop("logits"), "lacks 'logits'"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_refused(copied: Path, change: Any, words: str) -> None:
    content = torch.load(copied, weights_only=True)
    change(content)
    torch.save(content, copied)
    _refused(copied, words)


def test_a_checkpoint_with_one_wrong_bit_is_refused(copied: Path) -> None:
    data = bytearray(copied.read_bytes())
    with zipfile.ZipFile(copied) as archive:
        largest = max(archive.infolist(), key=lambda record: record.file_size)
    data[largest.header_offset + len(largest.FileHeader()) + largest.file_size // 2] ^= 1
    copied.write_bytes(data)
    _refused(copied, "checksum of .* is wrong")
