"""DrNAS: Dirichlet oracles of section 4, pathwise gradients, anchors, and the way from stage to stage."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from spacelang import InputChoice, LayerChoice, ModelSpace, SpaceError, Supernet
from spacelang.randomness import torch_generator
from spacelang.strategies import DrNAS, Moment, top_architectures
from spacelang.strategies.framework import load_optimizer_states, optimizer_states
from spacelang.strategies.one_shot.drnas import DirichletSample, concentration, kl_to_uniform, largest

from ..toys.search_script import make, outcome
from .test_derivation import OPERATIONS, OneCell, oracle_logits, slots_of
from .test_pcdarts import Small, Squares
from .test_search import quiet_trainer

pytestmark = pytest.mark.slow

ALPHA = oracle_logits()[:, 1:]  # DrNAS has no `none`
BETA = [0.14692272, 1.82423697, 1.84033407, 0.14619777, 2.67331128, 0.76743346, 0.26520086]
DRAWS = 40_000


def moment(seed: int = 0) -> Moment:
    return Moment(0, 2, torch.Generator().manual_seed(seed))


def variance(beta: Tensor) -> Tensor:
    total = beta.sum(dim=-1, keepdim=True)
    return beta * (total - beta) / (total**2 * (total + 1))


@pytest.fixture(scope="module")
def cell() -> Supernet:
    return Supernet(OneCell(distinct_inputs=True))


# -- oracles -------------------------------------------------------------------------------------------------


def test_concentrations() -> None:
    beta = concentration(ALPHA)
    assert beta[0].tolist() == pytest.approx(BETA, abs=5e-9)
    mean = [0.01917141, 0.23803801, 0.24013847, 0.01907681, 0.34883062, 0.10013959, 0.03460509]
    assert (beta[0] / beta[0].sum()).tolist() == pytest.approx(mean, abs=5e-9)
    spread = [0.00217044, 0.02093531, 0.02106182, 0.00215993, 0.02621853, 0.01040113, 0.00385607]
    assert variance(beta[0]).tolist() == pytest.approx(spread, abs=5e-9)


def test_divergence() -> None:
    kl = kl_to_uniform(concentration(ALPHA))
    assert kl[0].item() == pytest.approx(11.8155255, abs=5e-8)
    assert kl.sum().item() == pytest.approx(117.4661043, abs=5e-7)


def test_pruned_candidates_stay_in_the_divergence() -> None:
    """As in the authors' code: their alphas are zero, and they are sampled (and left out) with the others."""
    pruned = ALPHA * largest(ALPHA, 4)
    beta = concentration(pruned)
    full = torch.distributions.Dirichlet(beta), torch.distributions.Dirichlet(torch.ones_like(beta))
    assert torch.allclose(kl_to_uniform(beta), torch.distributions.kl_divergence(*full))


def test_the_four_largest() -> None:
    kept = [name for name, is_kept in zip(OPERATIONS, largest(ALPHA, 4)[0], strict=True) if is_kept]
    assert kept == ["avg_pool_3x3", "skip_connect", "sep_conv_5x5", "dil_conv_3x3"]
    assert largest(torch.tensor([[1.0, 1, 1], [0, 1, 1]]), 2).tolist() == [[1, 1, 0], [0, 1, 1]]
    assert largest(ALPHA, 9).all()


def test_derivation_is_by_the_softmax_and_not_by_the_mean(cell: Supernet) -> None:
    table = DrNAS().relaxation.probabilities(cell.groups["cell"], ALPHA)
    (arch,) = top_architectures(cell, {"cell": table}, 1)
    assert slots_of(arch) == [
        [("sep_conv_5x5", 0), ("dil_conv_5x5", 1)],
        [("skip_connect", 0), ("dil_conv_5x5", 1)],
        [("sep_conv_3x3", 3), ("dil_conv_3x3", 1)],
        [("dil_conv_3x3", 3), ("dil_conv_3x3", 4)],
    ]
    beta = concentration(ALPHA)
    (other,) = top_architectures(cell, {"cell": beta / beta.sum(dim=1, keepdim=True)}, 1)
    assert slots_of(other) == [
        [("dil_conv_5x5", 1), ("sep_conv_5x5", 0)],
        [("dil_conv_5x5", 1), ("skip_connect", 0)],
        [("sep_conv_3x3", 3), ("dil_conv_3x3", 1)],
        [("dil_conv_3x3", 3), ("dil_conv_3x3", 1)],
    ]


# -- samples -------------------------------------------------------------------------------------------------


def samples(cell: Supernet, alpha: Tensor) -> Tensor:
    """Rows of many mixtures of one row of logits."""
    now, group = moment(), cell.groups["cell"]
    relaxation = DrNAS().relaxation
    drawn = [relaxation.mixture(group, alpha.expand(14, 7), now).weights for _ in range(DRAWS // 14)]
    return torch.cat(drawn)


def test_samples_have_the_mean_and_variance_of_the_dirichlet(cell: Supernet) -> None:
    """Within five standard errors.

    In [0, 1] the fourth central moment is at most the variance, which bounds the error of the variance too.
    """
    theta = samples(cell, ALPHA[:1])
    beta = concentration(ALPHA[0])
    assert torch.allclose(theta.sum(dim=1), torch.ones(1, dtype=torch.float64))
    bound = 5 * (variance(beta) / len(theta)).sqrt()
    assert ((theta.mean(dim=0) - beta / beta.sum()).abs() < bound).all()
    assert ((theta.var(dim=0) - variance(beta)).abs() < bound).all()


def test_samples_of_what_pruning_left(cell: Supernet) -> None:
    """The Dirichlet of the survivors alone; the pruned have neither weight nor gradient."""
    supernet = Supernet(OneCell(distinct_inputs=True))
    left = largest(ALPHA[:1], 4).expand(14, 7)
    supernet.prune({"cell": left.tolist()})
    theta = samples(supernet, ALPHA[:1])
    assert (theta[:, ~left[0]] == 0).all()
    beta = concentration(ALPHA[0])[left[0]]
    bound = 5 * (variance(beta) / len(theta)).sqrt()
    assert ((theta[:, left[0]].mean(dim=0) - beta / beta.sum()).abs() < bound).all()
    alpha = ALPHA.clone().requires_grad_()
    weights = DrNAS().relaxation.mixture(supernet.groups["cell"], alpha, moment()).weights
    (gradient,) = torch.autograd.grad((weights**2).sum(), alpha)
    assert (gradient[~left] == 0).all()
    assert (gradient[left] != 0).all()


def test_samples_are_of_the_moments_generator(cell: Supernet) -> None:
    group, relaxation = cell.groups["cell"], DrNAS().relaxation
    state = torch.get_rng_state()
    a, b, c = (relaxation.mixture(group, ALPHA, moment(seed)).weights for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(state, torch.get_rng_state())


def test_samples_and_gradients_are_those_of_torchs_distribution() -> None:
    beta = torch.tensor([BETA, BETA[::-1]], dtype=torch.float64, requires_grad=True)
    factor = torch.randn(2, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    theta = DirichletSample.apply(beta, torch.Generator().manual_seed(5))
    (found,) = torch.autograd.grad((factor * theta**2).sum(), beta)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        expected = torch.distributions.Dirichlet(beta).rsample()
    assert torch.equal(theta, expected)
    (wanted,) = torch.autograd.grad((factor * expected**2).sum(), beta)
    assert torch.allclose(found, wanted)


def test_the_mean_of_pathwise_gradients_is_the_gradient_of_the_mean() -> None:
    """E[theta_1^2] = b_1 (b_1 + 1) / (b_0 (b_0 + 1)), in alpha; within five standard errors."""
    alpha = ALPHA[0].clone().requires_grad_()
    beta = concentration(alpha)
    total = beta.sum()
    second_moment = beta[1] * (beta[1] + 1) / (total * (total + 1))
    (exact,) = torch.autograd.grad(second_moment, alpha)
    for h in (torch.eye(7, dtype=torch.float64) * 1e-6)[:2]:  # the closed form itself, once by differences
        sides = [concentration(ALPHA[0] + sign * h) for sign in (1, -1)]
        values = [b[1] * (b[1] + 1) / (b.sum() * (b.sum() + 1)) for b in sides]
        assert ((values[0] - values[1]) / 2e-6).item() == pytest.approx((exact @ h / 1e-6).item(), abs=1e-8)
    many = ALPHA[0].expand(DRAWS, 7).clone().requires_grad_()
    theta = DirichletSample.apply(concentration(many), torch.Generator().manual_seed(0))
    (gradients,) = torch.autograd.grad((theta[:, 1] ** 2).sum(), many)
    bound = 5 * gradients.std(dim=0) / DRAWS**0.5
    assert ((gradients.mean(dim=0) - exact).abs() < bound).all()
    assert bound.max() < 0.01


@pytest.mark.parametrize("alpha", [-30.0, 0.0, 30.0])
def test_extreme_logits_stay_finite(cell: Supernet, alpha: float) -> None:
    logits = torch.full((14, 7), alpha, requires_grad=True)
    weights = DrNAS().relaxation.mixture(cell.groups["cell"], logits, moment()).weights
    (gradient,) = torch.autograd.grad((weights * torch.arange(7.0)).sum(), logits)
    assert weights.isfinite().all()
    assert gradient.isfinite().all()


def test_sets_have_a_plain_mixture() -> None:
    class Sets(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.two = InputChoice(3, 2, label="two")

    relaxation, group = DrNAS().relaxation, Supernet(Sets()).groups["two"]
    assert relaxation.mixture(group, torch.zeros(1, 3), moment()).weights[0].tolist() == pytest.approx(
        [2 / 3] * 3
    )


def test_one_step_of_the_logits(tmp_path: Path) -> None:
    """Adam gets the pathwise gradient of the validation loss, at samples of the epoch's generator."""
    torch.manual_seed(0)
    strategy = DrNAS(warmup_epochs=0, weight_decay=0.0, init_scale=1.0)
    supernet = strategy.supernet(Small())
    search = strategy.attach(supernet, seed=1)
    before = {label: p.detach().clone().requires_grad_() for label, p in search.parameters.logits.items()}
    train, val = torch.randn(2, 3, 4, 5, 5)
    generator = torch_generator(1, 0, 0)  # seed, stage, epoch
    supernet.set_mixture(
        {label: DirichletSample.apply(concentration(p), generator) for label, p in before.items()}
    )
    loss = Squares(supernet).training_step((val,), 0)
    gradients = torch.autograd.grad(loss, list(before.values()))
    batches = [DataLoader(TensorDataset(x), batch_size=3) for x in (train, val)]
    quiet_trainer(tmp_path, search, num_sanity_val_steps=0).fit(Squares(supernet), *batches)
    for label, gradient in zip(before, gradients, strict=True):
        assert gradient.abs().max() > 1e-4
        assert torch.allclose(search.state_dict()["moments"][label]["exp_avg"], 0.5 * gradient, atol=1e-6)


# -- the anchor ----------------------------------------------------------------------------------------------


def test_anchors() -> None:
    assert DrNAS().weight_decay == 1e-3
    strategy = DrNAS(weight_decay=0.0, kl_weight=0.1, init_scale=1.0)
    search = strategy.attach(strategy.supernet(Small()), seed=2)
    logits = list(search.parameters.logits.values())
    loss = strategy.objective(torch.tensor(2.0), search, "logits")
    assert strategy.objective(torch.tensor(2.0), search, "weights") == 2
    tables = [concentration(p) for p in logits]
    everything = [kl_to_uniform(beta).sum() for beta in tables]
    assert loss.item() == pytest.approx(2 + 0.1 * sum(everything).item())
    gradients = torch.autograd.grad(loss, logits)
    assert all(gradient.abs().max() > 1e-3 for gradient in gradients)
    with pytest.raises(SpaceError, match="kl_weight=-1 must be a number of at least 0"):
        DrNAS(kl_weight=-1)


# -- stages --------------------------------------------------------------------------------------------------

STAGES = DrNAS(learning_rate=0.01, warmup_epochs=1, partial_channels=(2, 1), operations=(3,))


def test_a_stage_begins_where_the_one_before_ended() -> None:
    from spacelang.hub import DARTS as DartsSpace

    space = DartsSpace(4, 3, (1, 8, 10), num_nodes=2)
    strategy = DrNAS(partial_channels=(2, 1, 1), operations=(4, 2), init_scale=1.0)
    assert strategy.stages == 3
    first = strategy.attach(strategy.supernet(space, 0), seed=1)
    second = strategy.attach(strategy.supernet(space, 1), seed=1, stage=1, previous=first)
    third = strategy.attach(strategy.supernet(space, 2), seed=1, stage=2, previous=second)
    for before, after, count in ((first, second, 4), (second, third, 2)):
        for label, group in after.supernet.groups.items():
            alpha, alive = before.parameters.logits[label], torch.tensor(group.alive)
            assert (alive.sum(dim=1) == count).all()
            was_alive = torch.tensor(before.supernet.groups[label].alive)
            smallest = alpha.masked_fill(~alive, torch.inf).amin(dim=1)
            dropped = alpha.masked_fill(alive | ~was_alive, -torch.inf).amax(dim=1)
            assert (smallest >= dropped).all()
            assert torch.equal(after.parameters.logits[label], alpha * alive)
            assert not after.parameters.optimizer.state
    # Alive candidates, and everything around the cells, go on with the weights they had.
    narrow, wide = first.supernet.state_dict(), second.supernet.state_dict()
    for name, value in wide.items():
        if value.dim() == 4:
            n, m = narrow[name].shape[:2]
            assert torch.equal(value[:n, :m], narrow[name])
    second.supernet(torch.randn(2, 1, 8, 8))


def test_layer_choices_are_pruned_and_others_are_not() -> None:
    class Mixed(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.layer = LayerChoice([torch.nn.Linear(2, 2) for _ in range(4)], label="layer")
            self.one = InputChoice(4, label="one")

    strategy = DrNAS(partial_channels=(1, 1), operations=(2,))
    first = strategy.attach(strategy.supernet(Mixed()))
    second = strategy.attach(strategy.supernet(Mixed(), 1), stage=1, previous=first)
    alive = {label: sum(group.alive[0]) for label, group in second.supernet.groups.items()}
    assert alive == {"layer": 2, "one": 4}
    kept = second.supernet.groups["layer"].alive[0].index(True)
    old, new = (s.supernet.network.layer.candidates[kept].weight for s in (first, second))
    assert torch.equal(old, new)


class StopAt(pl.Callback):
    """Raise before the second batch of an epoch of a stage."""

    def __init__(self, stage: int, epoch: int) -> None:
        self.stage, self.epoch = stage, epoch

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        (search,) = (c for c in trainer.callbacks if hasattr(c, "moment"))
        if (search.stage, trainer.current_epoch, batch_idx) == (self.stage, self.epoch, 1):
            raise InterruptedError


def test_a_search_resumes_between_its_stages_and_in_the_second(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", epochs=2, method=STAGES)
    whole.run()
    assert all(sum(row) == 3 for group in whole.supernet.groups.values() for row in group.alive)
    whole.space.validate(whole.best)
    history = whole.search.history["normal"]
    assert len(history) == 2
    assert not torch.equal(history[0], history[1])  # the second epoch is past the warm-up
    for resume, at in ((False, StopAt(1, 0)), (True, StopAt(1, 1))):
        with pytest.raises(InterruptedError):
            make(tmp_path / "run", epochs=2, method=STAGES, callbacks=[at]).run(resume=resume)
    resumed = make(tmp_path / "run", epochs=2, method=STAGES)
    resumed.run(resume=True)
    assert outcome(resumed) == outcome(whole)


class Watch(pl.Callback):
    """Note learning rates, and momentum and moments of the logits around the end of the first stage."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.seen: list[tuple[dict[str, Tensor], Any, dict[str, list[list[bool]]]]] = []

    def __deepcopy__(self, memo: Any) -> Watch:
        return self  # each fit copies the user's callbacks

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        if trainer.current_epoch == 0:
            self.note(trainer, pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.note(trainer, pl_module)

    def note(self, trainer: Any, pl_module: Any) -> None:
        state = trainer.optimizers[0].state
        momentum = {
            name: state[p]["momentum_buffer"].clone()
            for name, p in pl_module.named_parameters()
            if "momentum_buffer" in state.get(p, {})
        }
        (search,) = (c for c in trainer.callbacks if hasattr(c, "moment"))
        alive = {label: group.alive for label, group in search.supernet.groups.items()}
        self.seen.append((momentum, search.state_dict()["moments"], alive))


def staged(folder: Path, **settings: Any) -> Watch:
    """Two stages of two epochs, with a cosine over four."""
    watch = Watch()
    make(folder, epochs=4, max_epochs=2, method=replace(STAGES, **settings), callbacks=[watch]).run()
    return watch


def test_optimisers_and_schedules_continue_in_the_next_stage(tmp_path: Path) -> None:
    watch = staged(tmp_path / "run", warmup_epochs=0)
    cosine = [1e-3 + 0.024 * (1 + math.cos(math.pi * t / 4)) / 2 for t in range(4)]
    assert watch.rates == pytest.approx(cosine)
    _, (old, old_moments, _), (new, moments, alive), _ = watch.seen
    grown = 0
    for name, buffer in new.items():
        before = old[name]
        if before.shape == buffer.shape:
            assert torch.equal(buffer, before)
            continue
        grown += 1
        assert torch.equal(buffer[tuple(slice(n) for n in before.shape)], before)
        # New channels copy old ones: every slice of the buffer is one that was there.
        rows = {tuple(row.flatten().tolist()) for row in buffer[:, : before.shape[1]] if buffer.dim() > 1}
        assert rows <= {tuple(row.flatten().tolist()) for row in before}
    assert grown > 0
    steps = 2 * 3  # two epochs of three batches
    for label, state in moments.items():
        assert state["step"] == old_moments[label]["step"] == steps
        for name in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(state[name], old_moments[label][name] * torch.tensor(alive[label]))
            assert state[name].any()


def test_optimisers_may_begin_again(tmp_path: Path) -> None:
    watch = staged(tmp_path / "run", warmup_epochs=0, carry_optimizers=False)
    assert watch.rates[:2] == watch.rates[2:]
    momentum, moments, _ = watch.seen[2]
    assert not momentum
    assert not moments


def test_other_optimisers_cannot_continue() -> None:
    module = torch.nn.Linear(1, 1)
    sgd = torch.optim.SGD(module.parameters(), lr=0.1)
    trainer: Any = SimpleNamespace(optimizers=[sgd], lr_scheduler_configs=[])
    states = optimizer_states(trainer, module)  # type: ignore[arg-type]
    trainer.optimizers = [sgd, sgd]
    with pytest.raises(
        SpaceError, match=r"configure_optimizers made other optimizers .* carry_optimizers=False"
    ):
        load_optimizer_states(trainer, module, states, {})  # type: ignore[arg-type]


def test_a_later_stage_needs_the_one_before() -> None:
    with pytest.raises(
        SpaceError, match=r"stage=1 of DrNAS needs the search of the stage before as previous="
    ):
        STAGES.attach(STAGES.supernet(Small(), 1), stage=1)


def test_channels_of_a_later_stage_are_refused_before_the_first(tmp_path: Path) -> None:
    strategy = DrNAS(partial_channels=(4, 3), operations=(2,))
    with pytest.raises(SpaceError, match=r"candidate 'a': Conv2d\(4, 4.*which 3 does not divide"):
        strategy.supernet(Small())


def test_the_first_weights_do_not_depend_on_later_stages() -> None:
    drawn = []
    for strategy in (DrNAS(partial_channels=(2,)), STAGES):
        torch.manual_seed(0)
        drawn.append(strategy.supernet(Small()).state_dict())
    assert all(torch.equal(value, drawn[1][name]) for name, value in drawn[0].items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"partial_channels": ()}, r"operations=\(\) must have one entry less than partial_channels=\(\)"),
        ({"partial_channels": (4, 6), "operations": (4,)}, r"partial_channels=\(4, 6\) must be a tuple of"),
        ({"partial_channels": (0,)}, "integers of at least 1 that do not rise"),
        ({"partial_channels": [4]}, r"partial_channels=\[4\] must be a tuple"),
        ({"partial_channels": (2, "1")}, r"partial_channels=\(2, '1'\) must be a tuple"),
        ({"partial_channels": (4, 2)}, r"operations=\(\) must have one entry less"),
        ({"partial_channels": (4, 2), "operations": (2.0,)}, r"operations=\(2.0,\) must be a tuple of"),
        (
            {"partial_channels": (4, 2, 1), "operations": (2, 3)},
            r"operations=\(2, 3\) must be .* do not rise",
        ),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        DrNAS(**settings)
