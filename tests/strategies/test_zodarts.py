"""ZO-DARTS against its oracles, and its twin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from spacelang import Experiment, SpaceError, Supernet
from spacelang.hub import DARTS as DartsSpace
from spacelang.hub import NASBench201
from spacelang.strategies import ZODARTS, Moment, ZODARTSPlus
from spacelang.strategies.one_shot import zodarts as module
from spacelang.strategies.one_shot.zodarts import first_table, hypergradient, sparsemax
from spacelang.testing import toy_spaces
from spacelang.testing.toy_evaluators import Fit

from ..toys.paths import Anything, trainer


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_oracle_of_the_hypergradient() -> None:
    alpha, u = numbers(0.4, -0.2, 0.3), numbers(1, 2, -2) / 3
    mu = 0.005 * torch.linalg.vector_norm(alpha)
    assert mu.item() == pytest.approx(0.0026925824, abs=5e-11)
    displacement = numbers(0.004, -0.001) / mu
    along = hypergradient([u], [numbers(0.1, 0.2, -0.3)], [displacement], [numbers(0.5, -0.25)])
    assert (along * u).tolist() == pytest.approx([0.40076523, 0.80153046, -0.80153046], abs=5e-9)
    assert hypergradient([u], [None], [displacement], [numbers(0, 0)]) == 0


def test_oracle_16a() -> None:
    z, relaxation = numbers(0.5, 1.2, -0.3, 0.9)[None], ZODARTSPlus().relaxation
    temperatures = {0: 1.5, 4: 1.5, 5: 1.125, 9: 1.125, 20: 0.474609375, 49: 0.1126270294}
    found = {epoch: relaxation.temperature_at(epoch) for epoch in temperatures}
    assert found == pytest.approx(temperatures, abs=5e-11)
    for temperature, expected in (
        (1.5, [0.08888889, 0.55555556, 0, 0.35555556]),
        (1.125, [0.00740741, 0.62962963, 0, 0.36296296]),
        (0.84375, [0, 0.67777778, 0, 0.32222222]),
        (1.0, [0, 0.65, 0, 0.35]),
        (0.5, [0, 0.8, 0, 0.2]),
    ):
        assert sparsemax(z / temperature)[0].tolist() == pytest.approx(expected, abs=5e-9)


def test_candidates_without_weight_do_not_run() -> None:
    supernet, relaxation = Supernet(toy_spaces()["Layers"]), ZODARTSPlus().relaxation
    logits = torch.tensor([[0.9, 1.2, -0.3]])
    mixture = relaxation.mixture(supernet.groups["first"], logits, Moment(10, 50, torch.Generator()))
    assert mixture.active == [[True, True, False]]
    assert mixture.weights.sum() == pytest.approx(1)
    supernet.prune({"first": [[True, False, True]]})
    mixture = relaxation.mixture(supernet.groups["first"], logits, Moment(10, 50, torch.Generator()))
    assert mixture.weights.tolist() == [[1, 0, 0]]


def test_without_a_shift_the_twin_trains_as_the_weights_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three batches of a network with batch norm, with momentum and weight decay: the same bits."""
    found: list[torch.Tensor] = []

    class Unshifted(module.Twin):
        def __init__(self, search: Any) -> None:
            super().__init__(search)
            self.direction = [torch.zeros_like(u) for u in self.direction]

        def displacement(self) -> list[torch.Tensor]:
            found.extend(super().displacement())
            return super().displacement()

    monkeypatch.setattr(module, "Twin", Unshifted)
    experiment = Experiment(toy_spaces()["Everything"], Fit(1), ZODARTS(rounds=3), directory=tmp_path / "run")
    experiment.run()
    assert len(found) == len(list(experiment.supernet.parameters()))
    assert not any(displacement.any() for displacement in found)


def images(count: int) -> DataLoader[Any]:
    """Batches of two images."""
    return DataLoader([(torch.randn(2, 4, 6, 6),) for _ in range(count)], batch_size=None)  # type: ignore[arg-type]


def test_logits_step_once_a_window_along_a_direction_of_length_one(tmp_path: Path) -> None:
    """Seven batches an epoch in windows of three: two steps, the last batch moves weights alone."""
    supernet = Supernet(toy_spaces()["Layers"])
    steps: list[list[torch.Tensor]] = []
    directions: list[list[torch.Tensor]] = []
    search: Any = ZODARTS(rounds=3).attach(supernet)
    step_along = search.step_along

    def seen(gradients: Any) -> None:
        steps.append([g.clone() for g in gradients])
        directions.append(search._twin.direction)
        step_along(gradients)

    search.step_along = seen
    fit = trainer(tmp_path, search)
    fit.fit(Anything(supernet), images(7), images(7))
    assert len(steps) == 2
    for gradients, u in zip(steps, directions, strict=True):
        flat, along = torch.cat([g.flatten() for g in gradients]), torch.cat([t.flatten() for t in u])
        assert torch.linalg.vector_norm(along).item() == pytest.approx(1, abs=1e-6)
        assert torch.allclose(flat, (flat @ along) * along, atol=1e-6)
    assert not torch.equal(directions[0][0], directions[1][0])


def test_the_shift_is_measured_by_the_first_cell_or_by_the_edges_of_one_kind() -> None:
    strategy = ZODARTS(init_scale=1.0)
    for space, labels in (
        (DartsSpace(2, 3, (1, 8, 10), num_nodes=1), ["normal"]),
        (NASBench201(2, 1, (1, 8, 10)), [f"cell/{s}_{n}" for n in range(1, 4) for s in range(n)]),
    ):
        search: Any = strategy.attach(Supernet(space))
        logits = torch.cat([search.parameters.logits[label].flatten() for label in labels])
        assert first_table(search).norm().item() == pytest.approx(logits.norm().item(), abs=1e-5)


def test_accumulated_batches_are_refused(tmp_path: Path) -> None:
    supernet = Supernet(toy_spaces()["Layers"])
    fit = trainer(tmp_path, ZODARTS().attach(supernet))
    fit.accumulate_grad_batches = 2
    with pytest.raises(SpaceError, match="accumulate_grad_batches=1"):
        fit.fit(Anything(supernet), images(2), images(2))


@pytest.mark.parametrize("settings", [{"rounds": 0}, {"shift": 0.0}, {"init_scale": 0.0}])
def test_bad_settings_are_named(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(SpaceError, match=f"{name}="):
        ZODARTS(**settings)
