"""R-DARTS: the tracker against its oracle, and the weight decay that rises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

from spacelang import Experiment, SpaceError, Supernet
from spacelang.strategies import DARTS, RDARTS, Monitor, RaiseWeightDecay, StopOnEigenvalue
from spacelang.strategies.extras import early_stop as module
from spacelang.strategies.extras.early_stop import local_averages
from spacelang.testing import toy_spaces
from spacelang.testing.toy_evaluators import Fit


def test_oracle_17d() -> None:
    """Eigenvalues .1 g^m, measured in epochs 0, 2, 4, ..."""
    averages = local_averages([0.1 * 1.06**m for m in range(6)], 5)
    assert averages == pytest.approx([0.10612, 0.1093654, 0.1127418592, 0.1195063708], abs=5e-11)
    for growth, ratio in ((1.066, 1.2913), (1.07, 1.3107960100)):  # the first never stops a search
        averages = local_averages([0.1 * growth**m for m in range(12)], 5)  # up to epoch 22
        assert averages[9] / averages[5] == pytest.approx(ratio, abs=5e-5)


class Stop(pl.Callback):
    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == (4, 1):
            raise InterruptedError


def test_weight_decay_rises_to_its_largest_also_after_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Doubled in every epoch, the curvature has grown from epoch 1 on; 3e-4 times 5, at most .005."""
    monkeypatch.setattr(module, "validation_eigenvalue", lambda search: 0.1 * 2**search.moment.epoch)
    raising = RaiseWeightDecay(raised_by=5.0, most=0.005, every=1, window=1, distance=1, first_epoch=0)
    space, strategy = toy_spaces()["Layers"], DARTS(extras=(raising,))
    Experiment(space, Fit(5), strategy, directory=tmp_path / "whole").run()
    with pytest.raises(InterruptedError):
        Experiment(space, Fit(5, [Stop()]), strategy, directory=tmp_path / "run").run()
    resumed = Experiment(space, Fit(5), strategy, directory=tmp_path / "run")
    resumed.run(resume=True)
    expected = [3e-4, 3e-4, 1.5e-3, 0.005, 0.005]
    assert resumed.search.records["weight_decay"] == pytest.approx(expected)


def test_it_is_second_order_with_the_numbers_of_the_authors() -> None:
    strategy = RDARTS()
    assert strategy.order == 2
    assert strategy.extras_of(0) == (RaiseWeightDecay(raised_by=10.0, most=0.03),)


def test_who_measures_the_eigenvalue_too_is_named() -> None:
    supernet = Supernet(toy_spaces()["Cells"])
    for extra in (Monitor(eigenvalue=True), StopOnEigenvalue()):
        with pytest.raises(SpaceError, match="records the eigenvalue already, and so does"):
            DARTS(extras=(extra, RaiseWeightDecay())).attach(supernet)
    with pytest.raises(SpaceError, match="leave RaiseWeightDecay out of extras"):
        RDARTS(extras=(RaiseWeightDecay(),))


def test_an_optimizer_without_weight_decay_is_named(tmp_path: Path) -> None:
    class Bare(Fit):
        def lightning_module(self, model: Any) -> Any:
            lightning_module = super().lightning_module(model)
            configure = lightning_module.configure_optimizers

            def without() -> Any:
                optimizer = configure()
                optimizer.param_groups[0]["weight_decay"] = 0.0
                return optimizer

            lightning_module.configure_optimizers = without  # type: ignore[method-assign]
            return lightning_module

    strategy = DARTS(extras=(RaiseWeightDecay(),))
    with pytest.raises(SpaceError, match="set weight_decay=3e-4"):
        Experiment(toy_spaces()["Layers"], Bare(1), strategy, directory=tmp_path / "run").run()
