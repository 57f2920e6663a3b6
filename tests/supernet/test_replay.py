"""Recorded steps: what is recorded, and that replays compute the same; functions stand for CUDA graphs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spacelang import SpaceError, Supernet
from spacelang.hub import DARTS as DartsSpace
from spacelang.supernet import stepwise
from spacelang.supernet.replay import CudaGraphs, Replay

from ..toys.search_script import make, outcome
from ..toys.spaces import random_mixture
from .test_execution import OneCell, check_close, results


class Function(torch.autograd.Function):
    """One forward and one backward pass over the same tensors again and again, as a CUDA graph makes them."""

    @staticmethod
    def forward(ctx: Any, recording: Recording, *given: Tensor) -> tuple[Tensor, ...]:
        ctx.recording = recording
        return recording.forward(given)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return None, *ctx.recording.backward(grads)


class Recording:
    """A function that reads tensors in fixed places, and writes results and gradients to fixed ones."""

    def __init__(self, compute: Callable[..., Any], places: Sequence[Tensor]) -> None:
        self.compute, self.places, self.copied, self.replayed = compute, places, 0, 0
        self.result: Tensor | None = None
        self.grads: list[Tensor | None] = []

    def __call__(self, *given: Tensor) -> Tensor:
        (result,) = Function.apply(self, *given)
        return result

    def forward(self, given: Sequence[Tensor]) -> tuple[Tensor, ...]:
        for place, tensor in zip(self.places, given, strict=True):
            if place.data_ptr() != tensor.data_ptr():
                place.detach().copy_(tensor)
                self.copied += 1
        with torch.enable_grad():
            self.output = self.compute(*self.places)
        if self.result is None:
            self.result = self.output.detach().clone()
        self.replayed += 1
        return (self.result.copy_(self.output.detach()).detach(),)

    def backward(self, grads: Sequence[Tensor]) -> list[Tensor | None]:
        variable = [place for place in self.places if place.requires_grad]
        found = iter(torch.autograd.grad(self.output, variable, grads, allow_unused=True))
        new = [next(found) if place.requires_grad else None for place in self.places]
        if not self.grads:
            self.grads = [None if grad is None else grad.clone() for grad in new]
        for mine, grad in zip(self.grads, new, strict=True):
            if mine is not None and grad is not None:
                mine.copy_(grad)
        return [None if grad is None else grad.detach() for grad in self.grads]


class Recorder:
    """Records functions; draws random numbers and moves statistics while it does, as warming up does."""

    all: list[Recording] = []

    def fits(self, tensors: Sequence[Tensor]) -> bool:
        return bool(tensors)

    def record(self, compute: Callable[..., Any], tensors: Sequence[Tensor]) -> Recording:
        torch.rand(3)
        compute(*tensors)
        Recorder.all.append(Recording(compute, tensors))
        return Recorder.all[-1]


@pytest.fixture
def recorded() -> list[Recording]:
    """Return the recordings of a test."""
    Recorder.all = []
    return Recorder.all


def replaying(space: Any, **options: Any) -> Supernet:
    supernet = Supernet(space, execution="torch", **options).double()
    supernet.replay = Replay(Recorder)
    return supernet


def space() -> OneCell:
    torch.manual_seed(0)
    return OneCell(("sep_conv_3x3", "dil_conv_3x3", "max_pool_3x3", "skip_connect"), 2, 4, 1, 2)


def batch(seed: int, size: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, 4, 5, 5, dtype=torch.float64, generator=generator)


def search(supernet: Supernet, steps: int, seen: Callable[[int], None] = lambda step: None) -> list[Any]:
    """Take steps of logits and weights in turn; return all gradients, outputs and the end."""
    found: list[Any] = []
    weights = list(supernet.parameters())
    optimizer = torch.optim.SGD(weights, lr=0.1, momentum=0.9)
    for step in range(steps):
        for p in weights:
            p.requires_grad_(False)
        mixture = random_mixture(supernet, step)
        supernet.set_mixture(mixture)
        output = supernet(batch(2 * step))
        found += [output, *torch.autograd.grad(output.square().sum(), list(mixture.values()))]
        for p in weights:
            p.requires_grad_(True)
        supernet.set_mixture({label: w.detach() for label, w in mixture.items()})
        for half in (0, 1):  # gradients of two batches add up
            output = supernet(batch(2 * step + half))
            output.square().mean().backward()
            found.append(output.detach())
        found += [None if p.grad is None else p.grad.clone() for p in weights]
        optimizer.step()
        optimizer.zero_grad()
        seen(step)
    return [*found, *supernet.state_dict().values()]


def test_both_updates_are_recorded_once_and_give_the_same_bits(recorded: list[Recording]) -> None:
    eager = Supernet(space(), execution="torch").double()
    supernet = replaying(space())
    for a, b in zip(search(eager, 4), search(supernet, 4), strict=True):
        assert (a is None and b is None) or torch.equal(a, b)
    weights, logits = recorded  # each at the second call of its kind
    assert (weights.replayed, logits.replayed) == (7, 3)
    assert weights.copied == 2 * 7  # the batch and the mixture, never the weights
    assert len(weights.places) - len(logits.places) == len(list(supernet.parameters()))


def test_pruning_records_again(recorded: list[Recording]) -> None:
    supernet, counts = replaying(space()), []

    def prune(step: int) -> None:
        counts.append(len(recorded))
        if step == 2:
            alive = [list(row) for row in supernet.groups["cell"].alive]
            alive[0][0] = False
            supernet.prune({"cell": alive})

    plain = Supernet(space(), execution="torch").double()

    def prune_plain(step: int) -> None:
        if step == 2:
            plain.prune({"cell": supernet.groups["cell"].alive})

    mine, theirs = search(supernet, 6, prune), search(plain, 6, prune_plain)
    assert counts == [1, 2, 2, 3, 4, 4]
    for a, b in zip(mine, theirs, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)
    before, after = recorded[1], recorded[3]
    assert len(after.places) == len(before.places)  # logits: weights are constants there
    assert len(recorded[2].places) == len(recorded[0].places) - 4  # of a separable convolution


def test_a_batch_of_another_size_is_computed_step_by_step(recorded: list[Recording]) -> None:
    supernet, eager = replaying(space()), Supernet(space(), execution="torch").double()
    sizes = (3, 3, 3, 2, 3, 3)
    for i, size in enumerate(sizes):
        mine, theirs = (
            results(network, batch(i, size), random_mixture(network, i)) for network in (supernet, eager)
        )
        check_close(mine, theirs, 0)
    (recording,) = recorded
    assert recording.replayed == 4


@pytest.mark.parametrize(
    "change",
    [
        lambda net: net.set_transform(lambda candidate, output: output),
        lambda net: net.network.register_forward_hook(lambda *_: None),
        lambda net: net.eval() and net.requires_grad_(False),
        lambda net: net.select(net.decision_space.default()),
    ],
)
def test_what_a_recording_would_not_do_is_not_replayed(recorded: list[Recording], change: Any) -> None:
    supernet = replaying(space())
    for i in range(3):
        supernet(batch(i)).sum().backward()
    assert recorded[0].replayed == 2
    change(supernet)
    supernet(batch(3))
    with torch.no_grad():
        supernet(batch(4))
    assert [recording.replayed for recording in recorded] == [2]


def test_a_changed_rate_of_dropout_records_again(recorded: list[Recording]) -> None:
    torch.manual_seed(0)
    space, counts = OneCell(("sep_conv_3x3", "skip_connect"), 1, 4, 1, 1), []
    space.drop = nn.Dropout(0.1)
    supernet = replaying(space)
    for rate in (0.1, 0.1, 0.1, 0.2, 0.2, 0.2):
        supernet.network.drop.p = rate
        supernet(batch(0)).sum().backward()
        counts.append(len(recorded))
    assert counts == [0, 1, 1, 1, 2, 2]


def test_random_draws_are_those_of_a_step_by_step_search(recorded: list[Recording]) -> None:
    ends = []
    for network in (replaying(space()), Supernet(space(), execution="torch").double()):
        torch.manual_seed(7)
        for i in range(4):
            network(nn.functional.dropout(batch(i), 0.3)).sum().backward()
        ends.append([torch.rand(2), *(p.grad for p in network.parameters() if p.grad is not None)])
    assert len(recorded) == 1
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_a_second_forward_pass_before_the_backward_pass_is_computed_step_by_step(
    recorded: list[Recording],
) -> None:
    found = []
    for network in (replaying(space()), Supernet(space(), execution="torch").double()):
        for i in range(3):
            (network(batch(i)).square().sum() + network(batch(i + 9)).square().sum()).backward()
        outputs = [network(batch(i)) for i in (20, 21)]
        outputs[0].sum().backward()
        found.append([*outputs, *(p.grad for p in network.parameters() if p.grad is not None)])
    assert len(recorded) == 1
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_second_derivatives_are_refused_and_computed_stepwise(recorded: list[Recording]) -> None:
    supernet = replaying(space())
    for i in range(2):
        supernet(batch(i)).sum().backward()
    weights = list(supernet.parameters())
    with pytest.raises(SpaceError, match=r"stepwise\(module\)"):
        torch.autograd.grad(supernet(batch(2)).sum(), weights, create_graph=True, allow_unused=True)
    loss = supernet(batch(2)).sum()
    torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    with pytest.raises(SpaceError, match="go backwards once"):
        torch.autograd.grad(loss, weights, allow_unused=True)
    replay = supernet.replay
    with stepwise(nn.Sequential(supernet)):
        loss = supernet(batch(2)).square().sum()
    grads = torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True)
    torch.autograd.grad(sum(g.sum() for g in grads if g is not None), weights, allow_unused=True)
    assert supernet.replay is replay


def test_what_cannot_be_recorded_is_computed_step_by_step_with_one_warning(
    recorded: list[Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(Recorder, "record", refuse)
    supernet, eager = replaying(space()), Supernet(space(), execution="torch").double()
    assert torch.equal(supernet(batch(0)), eager(batch(0)))
    with pytest.warns(UserWarning, match="without CUDA graphs.*not permitted when stream"):
        found = supernet(batch(1))
    assert torch.equal(found, eager(batch(1)))
    assert torch.equal(supernet(batch(2)), eager(batch(2)))  # without another warning
    assert all(torch.equal(a, b) for a, b in zip(supernet.buffers(), eager.buffers(), strict=True))


def test_a_copy_records_for_itself(recorded: list[Recording]) -> None:
    supernet = replaying(space())
    for i in range(2):
        supernet(batch(i)).sum().backward()
    twin = copy.deepcopy(supernet)
    for i in range(2):
        twin(batch(i)).sum().backward()
    assert [recording.replayed for recording in recorded] == [1, 1]
    assert recorded[0].places[-1] is not recorded[1].places[-1]


def test_checkpointed_supernets_and_other_devices_are_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Supernet(space()).replay is None  # no GPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert Supernet(space(), execution="torch").replay is None
    supernet = Supernet(space())
    assert supernet.replay is not None
    assert not CudaGraphs().fits([batch(0)])  # a network on a CPU
    supernet.set_checkpoint(True)
    assert supernet.replay is None


@pytest.mark.slow
def test_a_search_on_lightning_replays_its_steps(
    recorded: list[Recording], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clipping, a schedule of the rate, validation between epochs: the same end bit for bit."""
    settings: dict[str, Any] = {"execution": "torch", "epochs": 2}
    cells = DartsSpace(2, 3, (1, 8, 10), num_nodes=1)
    stepwise_run = make(tmp_path / "stepwise", space=cells, **settings)
    stepwise_run.run()
    monkeypatch.setattr(
        Supernet, "_set_replay", lambda supernet: setattr(supernet, "replay", Replay(Recorder))
    )
    replayed = make(tmp_path / "replayed", space=cells, **settings)
    replayed.run()
    assert outcome(replayed) == outcome(stepwise_run)
    # Six steps each: the first call of all prepares the cells, and each kind is recorded when it comes again.
    assert [recording.replayed for recording in recorded] == [5, 4]
