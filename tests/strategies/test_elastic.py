"""Sandwich and ProgressiveShrinking: which networks a batch trains, their joint gradient, phases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from spacelang import Experiment, LayerChoice, ModelSpace, Repeat, SpaceError, Supernet, nn, value_choice
from spacelang.strategies import Opening, ProgressiveShrinking, Sandwich
from spacelang.strategies.framework import sizes, soft_cross_entropy, with_sizes
from spacelang.testing import check_strategy, toy_spaces
from spacelang.testing.toy_evaluators import Fit

from ..toys.hub import SMALL
from ..toys.paths import trainer

FEW: dict[str, Any] = {"calibration_batches": 0, "validation_batches": 1, "candidates": 2}
PHASES = (Opening("inner", 2, networks=2), Opening("inner", networks=2), Opening("[wd]*", networks=4))


FULL = {"width": 4, "inner": 6, "depth": 2}


class Elastic(ModelSpace):
    """Two widths and a depth; a layer if asked. Classes of images of 4 pixels."""

    def __init__(self, *, layer: bool = False) -> None:
        super().__init__()
        width, inner = value_choice([4, 2], label="width"), value_choice([2, 4, 6], label="inner")

        def block(index: int) -> nn.Module:
            return nn.Sequential(nn.Conv2d(width, inner, 1), nn.ReLU(), nn.Conv2d(inner, width, 1))

        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.blocks = Repeat(block, (1, 2), label="depth")
        self.act = LayerChoice([nn.Tanh(), nn.ReLU()], label="act") if layer else nn.Tanh()
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.blocks(self.stem(x))).mean((2, 3)))


class Classifier(pl.LightningModule):
    """Cross entropy in float64; weights do not move."""

    rate = 0.0

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.rate)


class Trained(pl.Callback):
    """The networks that each batch trains, and the gradients of its step."""

    def __init__(self, supernet: Supernet) -> None:
        self.batches: list[list[dict[str, Any]]] = []
        self.gradients: list[dict[str, Tensor]] = []
        self.hook = supernet.register_forward_hook(lambda *_: self._see(supernet))

    def _see(self, supernet: Supernet) -> None:
        if torch.is_grad_enabled():
            self.batches[-1].append({x: g.selected for x, g in supernet.groups.items() if g.is_selected})

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append([])

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.hook.remove()

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        found = pl_module.model.named_parameters()
        self.gradients.append({name: p.grad.clone() for name, p in found if p.grad is not None})


def batches() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, 5, 1, 2, 2, generator=generator, dtype=torch.float64)
    return DataLoader([(x, torch.tensor([0, 1, 2, 0, 1])) for x in images], batch_size=None)


def fitted(
    folder: Path, strategy: Any, space: ModelSpace, previous: Any = None, stage: int = 0, rate: float = 0.0
) -> tuple[Any, Trained]:
    """One stage of a search: three batches."""
    torch.manual_seed(stage)
    supernet = Supernet(space.rebuild().double(), memory_format=None)
    search, trained = strategy.attach(supernet, stage=stage, previous=previous), Trained(supernet)
    module = Classifier(supernet)
    module.rate = rate
    trainer(folder, search, trained, num_sanity_val_steps=0).fit(module, batches(), batches())
    return search, trained


# -- sizes -------------------------------------------------------------------------------------------------


def test_sizes_are_depths_and_numbers_of_layers() -> None:
    assert sizes(Supernet(Elastic(layer=True))) == {"width": (4, 2), "inner": (6, 4, 2), "depth": (2, 1)}


def test_constraints_that_allow_no_such_sizes_are_named() -> None:
    class Narrow(Elastic):
        def __init__(self) -> None:
            super().__init__()
            self.constrain(value_choice([2, 4, 6], label="inner") < value_choice([4, 2], label="width") + 2)

    space = Narrow().decision_space
    with pytest.raises(SpaceError, match="allow no architecture with inner=6, width=4"):
        with_sizes(space, {"inner": 6, "width": 4}, np.random.default_rng(0))


def test_distance_by_hand() -> None:
    teacher, output = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert float(soft_cross_entropy(output, teacher)) == pytest.approx(np.log(1 + np.e) - 0.5)


# -- the sandwich rule -------------------------------------------------------------------------------------


def test_a_batch_trains_both_ends_and_random_networks(tmp_path: Path) -> None:
    search, trained = fitted(tmp_path, Sandwich(random=3, **FEW), Elastic(layer=True))
    assert [len(batch) for batch in trained.batches] == [5, 5, 5]
    for largest, smallest, *_ in trained.batches:
        assert (largest["width"], largest["inner"], largest["depth"]) == (4, 6, 2)
        assert (smallest["width"], smallest["inner"], smallest["depth"]) == (2, 2, 1)
    random = [repr(arch) for batch in trained.batches for arch in batch[2:]]
    assert len(set(random)) > 3
    assert {arch["act"] for batch in trained.batches for arch in batch[:2]} == {0, 1}
    found = [{x: arch[x] for x in ("width", "inner", "depth")} for arch in search.derive(4)]
    assert {"width": 4, "inner": 6, "depth": 2} in found
    assert {"width": 2, "inner": 2, "depth": 1} in found


def test_the_gradient_of_the_sandwich_rule(tmp_path: Path) -> None:
    """L_0 + sum of cross entropies with softmax(y_0), which no gradient enters."""
    search, trained = fitted(tmp_path, Sandwich(**FEW), Elastic())
    supernet = search.supernet
    for (x, y), archs, gradients in zip(batches(), trained.batches, trained.gradients, strict=True):
        outputs = []
        for arch in archs:
            supernet.select(arch)
            outputs.append(supernet(x))
        soft = outputs[0].detach().softmax(1)
        loss = F.cross_entropy(outputs[0], y) + sum(F.cross_entropy(o, soft) for o in outputs[1:])
        check_gradients(supernet, loss, gradients)


def check_gradients(supernet: Supernet, loss: Any, gradients: dict[str, Tensor]) -> None:
    names, parameters = zip(*supernet.named_parameters(), strict=True)
    for name, expected in zip(names, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
        assert (expected is None) == (name not in gradients)
        if expected is not None:
            torch.testing.assert_close(gradients[name], expected, rtol=0, atol=1e-12)


def test_elastic_transformers_are_trained(tmp_path: Path) -> None:
    supernet = Supernet(SMALL["AutoFormer"].make(), memory_format=None)
    (images,) = SMALL["AutoFormer"].inputs(4)
    data = DataLoader([(images, torch.tensor([0, 1, 2, 0]))], batch_size=None)
    search = Sandwich(**FEW).attach(supernet)
    trainer(tmp_path, search, num_sanity_val_steps=0).fit(Classifier(supernet), data, data)
    assert len(search.ranking) == 4


def test_a_space_without_sizes_is_refused() -> None:
    with pytest.raises(SpaceError, match="no depth, width or kernel size to choose"):
        Sandwich().attach(Supernet(SMALL["NASBench201"].make()))


@pytest.mark.slow
def test_sandwich_keeps_the_promises() -> None:
    found = check_strategy(Sandwich(candidates=3, calibration_batches=1), epochs=2)
    assert set(found.searched) == {"Depths", "Values", "OwnPrimitive", "Everything"}


# -- progressive shrinking ---------------------------------------------------------------------------------


def phases(strategy: ProgressiveShrinking) -> list[Any]:
    """The searches of all stages, one after another; in place of training the weights get noise."""
    searches: list[Any] = []
    generator = torch.Generator().manual_seed(0)
    for stage in range(strategy.stages):
        supernet = Supernet(Elastic().double(), memory_format=None)
        search = strategy.attach(supernet, stage=stage, previous=searches[-1] if searches else None)
        search.rng = np.random.default_rng(stage)
        searches.append(search)
        with torch.no_grad():
            for p in supernet.parameters():
                p.add_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return searches


def test_phases_open_sizes_one_after_another() -> None:
    searches = phases(ProgressiveShrinking(phases=PHASES, **FEW))
    full = {"width": (4,), "inner": (6,), "depth": (2,)}
    opened = [full, full | {"inner": (6, 4)}, full | {"inner": (6, 4, 2)}]
    opened.append({"width": (4, 2), "inner": (6, 4, 2), "depth": (2, 1)})
    for search, sizes_then, networks in zip(searches, opened, (1, 2, 2, 4), strict=True):
        assert search.sizes == sizes_then
        batches = [search.paths() for _ in range(20)]
        assert {len(batch) for batch in batches} == {networks}
        seen = [(label, value) for batch in batches for arch in batch for label, value in arch.items()]
        assert set(seen) == {(label, value) for label, values in sizes_then.items() for value in values}


def test_the_sandwich_rule_within_a_phase() -> None:
    searches = phases(ProgressiveShrinking(phases=PHASES, sandwich=True, **FEW))
    ends = [FULL, {"width": 2, "inner": 2, "depth": 1}]
    assert [search.paths()[:-1] for search in searches[:3]] == [[], ends[:1], ends[:1]]
    assert searches[3].paths()[:2] == ends


def test_a_phase_begins_with_the_networks_of_the_phase_before() -> None:
    """They compute the same, though channels are sorted; the teacher stays the first full network."""
    strategy = ProgressiveShrinking(phases=PHASES, **FEW)
    (x, _), *_ = batches()
    searches = phases(strategy)
    for stage, before in enumerate(searches[:-1], 1):
        supernet = Supernet(Elastic().double(), memory_format=None)
        strategy.attach(supernet, stage=stage, previous=before)
        for arch in before.extremes():
            expected = before.supernet.freeze(arch)(x)
            torch.testing.assert_close(supernet.freeze(arch)(x), expected, rtol=0, atol=1e-12)
        assert not torch.equal(supernet.freeze(FULL)(x), searches[stage].supernet.freeze(FULL)(x))
    assert searches[0].teacher is None
    teacher = searches[1].teacher
    assert torch.equal(teacher(x), searches[0].supernet.freeze(FULL)(x))
    assert all(torch.equal(search.teacher(x), teacher(x)) for search in searches[2:])


def test_the_filter_limits_what_is_found_in_the_end() -> None:
    strategy = ProgressiveShrinking(phases=PHASES, filter=lambda arch: arch["inner"] == 2, **FEW)
    *earlier, last = [
        search.rank(lambda arch, batches=None: float(arch["inner"]), torch.Generator().manual_seed(0))
        for search in phases(strategy)
    ]
    assert earlier[0] == [(6.0, FULL)]
    assert {value for ranking in earlier for value, _ in ranking} == {2.0, 4.0, 6.0}
    assert {value for value, _ in last} == {2.0}


def test_the_gradient_of_a_phase(tmp_path: Path) -> None:
    strategy = ProgressiveShrinking(phases=PHASES, distillation=0.7, **FEW)
    first, _ = fitted(tmp_path, strategy, Elastic(), rate=0.5)
    search, trained = fitted(tmp_path, strategy, Elastic(), first, 1)
    supernet = search.supernet
    for (x, y), archs, gradients in zip(batches(), trained.batches, trained.gradients, strict=True):
        soft = search.teacher(x).detach().softmax(1)
        loss: Any = 0
        for arch in archs:
            supernet.select(arch)
            output = supernet(x)
            loss = loss + F.cross_entropy(output, y) + 0.7 * F.cross_entropy(output, soft)
        check_gradients(supernet, loss, gradients)


def test_what_no_phase_opens_is_refused() -> None:
    with pytest.raises(SpaceError, match=r"no size of this space is named as in Opening\('\*_ks'\)"):
        ProgressiveShrinking().attach(Supernet(Elastic()))
    phases = (Opening("width"), Opening("depth"))
    with pytest.raises(SpaceError, match=r"'inner'\n.*no phase opens them"):
        ProgressiveShrinking(phases=phases).attach(Supernet(Elastic()))
    with pytest.raises(SpaceError, match=r"'act'\n"):
        ProgressiveShrinking(phases=(Opening("*"),)).attach(Supernet(Elastic(layer=True)))
    with pytest.raises(SpaceError, match="at least one"):
        ProgressiveShrinking(phases=())


class Stages(pl.Callback):
    """Epochs of each stage, and the learning rate in each."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, float]] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self.seen.append((trainer.current_epoch, trainer.max_epochs or 0, rate))


def test_phases_have_epochs_and_learning_rates_of_their_own(tmp_path: Path) -> None:
    """Two epochs of the full network, one of the next at ten times the rate; then what the evaluator says."""
    stages = Stages()
    phases = (Opening("width", epochs=1, learning_rate=0.2), Opening("size"))
    strategy = ProgressiveShrinking(phases=phases, full_epochs=2, candidates=2, calibration_batches=0)
    experiment = Experiment(toy_spaces()["Values"], Fit(3, [stages]), strategy, directory=tmp_path / "run")
    experiment.run()
    expected = [(0, 2, 0.02), (1, 2, 0.02), (0, 1, 0.2), *((epoch, 3, 0.02) for epoch in range(3))]
    assert stages.seen == [pytest.approx(each) for each in expected]


def test_the_phases_of_the_authors() -> None:
    strategy = ProgressiveShrinking.authors()
    assert [strategy.epochs_of(stage) for stage in range(6)] == [180, 120, 25, 120, 25, 120]
    rates = [strategy.learning_rate_of(stage) for stage in range(6)]
    assert rates == [None, 0.03, 0.0025, 0.0075, 0.0025, 0.0075]
    assert [(p.labels, p.sizes, p.networks) for p in strategy.phases] == [
        (p.labels, p.sizes, p.networks) for p in ProgressiveShrinking().phases
    ]


def test_the_defaults_fit_the_space_of_the_paper() -> None:
    supernet = Supernet(SMALL["OnceForAll"].kind(width_multiplier=0.1, num_classes=3))
    strategy = ProgressiveShrinking()
    strategy.check(supernet)
    sums = [sum(map(len, strategy.opened(supernet, stage).values())) for stage in range(6)]
    assert sums == [45, 45 + 40, 85 + 5, 90 + 5, 95 + 20, 115 + 20]  # 20 kernels, 5 depths, 20 expansions


@pytest.mark.slow
def test_progressive_shrinking_keeps_the_promises() -> None:
    phases = (Opening("width"), Opening("size", networks=2))
    found = check_strategy(ProgressiveShrinking(phases=phases, candidates=3, calibration_batches=1), epochs=2)
    assert found.searched == ("Values",)
