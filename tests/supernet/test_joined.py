"""Bundles in few large operators, as a GPU and autocast compute them; here on a CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spacelang import Supernet
from spacelang.hub import DARTS as DartsSpace
from spacelang.supernet import edge_by_edge, joined
from spacelang.supernet.execution import Resolved

from ..toys.spaces import random_mixture
from .test_execution import SEPARABLE, OneCell, check_close, error, results, twins

OPERATIONS = (*SEPARABLE, "max_pool_3x3", "avg_pool_3x3", "skip_connect", "none")


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let every supernet compute as on a GPU; return the bundles that it computes."""
    bundles: list[Any] = []
    compute = joined.compute
    monkeypatch.setattr(Resolved, "engine", lambda self, x, is_path: None if self.name == "plain" else joined)
    monkeypatch.setattr(joined, "compute", lambda bundle: bundles.append(bundle) or compute(bundle))
    return bundles


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("stride", "drop_path"), [(1, 0.0), (2, 0.3)])
def test_cells_are_those_of_the_plain_form(
    everywhere: list[Any], stride: int, drop_path: float, training: bool
) -> None:
    torch.manual_seed(0)
    space, x = OneCell(OPERATIONS, 2, 4, stride, 2, drop_path), torch.randn(3, 4, 6, 5, dtype=torch.float64)
    edges = {"cell": torch.rand(5, dtype=torch.float64)}
    silent = {"cell": [[k == 1 for k in range(len(OPERATIONS))] for _ in range(5)]}
    mine, theirs = (
        results(network.train(training), x, random_mixture(network, 1), edges=edges, silent=silent)
        for network in twins(space, "torch")
    )
    check_close(mine, theirs)
    assert len(everywhere) == 3  # one for each feature map that edges leave


def test_feature_maps_stay_in_channels_last(everywhere: list[Any]) -> None:
    torch.manual_seed(0)
    supernet, plain = twins(DartsSpace(4, 3, "cifar"), "torch")
    x, found = torch.randn(2, 3, 8, 8, dtype=torch.float64), []
    for network in (supernet, plain):
        network.set_mixture(random_mixture(network, 1))
        found.append(network(x.contiguous(memory_format=torch.channels_last)))
    bundles = list(everywhere)
    maps = [m for bundle in bundles for m in (bundle.x, *bundle.given, *joined.compute(bundle)[0])]
    assert all(m.is_contiguous(memory_format=torch.channels_last) for m in maps)
    assert torch.allclose(*found, rtol=0, atol=1e-10)


def test_autocast_keeps_statistics_and_logits_in_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Feature maps are bfloat16; errors are no larger than those of the plain form with autocast."""
    torch.manual_seed(0)
    space, x = OneCell(OPERATIONS[:-1], 2, 8, 1, 2), torch.randn(8, 8, 8, 8)
    types: list[tuple[torch.dtype, ...]] = []
    normalise = torch.native_batch_norm

    def seen(*args: Any) -> Any:
        output = normalise(*args)
        types.append((args[0].dtype, *(t.dtype for t in output)))
        return output

    monkeypatch.setattr(torch, "native_batch_norm", seen)
    exact = edge_by_edge(space).double()
    truth = results(exact, x.double(), random_mixture(exact, 1))
    errors = []
    for network in (Supernet(space, execution="torch"), edge_by_edge(space)):
        mixture = {k: w.detach().float().requires_grad_() for k, w in random_mixture(exact, 1).items()}
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = results(network, x, mixture)
        assert found["mixture cell"].dtype == torch.float32
        errors.append(error(found, truth))
    assert set(types) == {(torch.bfloat16, torch.bfloat16, torch.float32, torch.float32)}
    assert errors[0] <= errors[1], errors


def test_a_network_in_double_precision_may_be_autocast() -> None:
    """Its parameters are copied to bfloat16 for convolutions, and its statistics stay double."""
    supernet = Supernet(OneCell(("sep_conv_3x3", "skip_connect"), 1, 4, 1, 1), execution="torch").double()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output: Tensor = supernet(torch.randn(2, 4, 5, 5, dtype=torch.float64))
    output.sum().backward()
    norm = next(child for child in supernet.modules() if isinstance(child, nn.BatchNorm2d))
    assert norm.running_mean is not None
    assert norm.running_mean.dtype == torch.float64
