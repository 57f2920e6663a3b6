"""Plain networks: the first network of EAS, counts, and networks that grow by Net2Net."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spacelang import Experiment, ModelSpace, SpaceError, model_context
from spacelang.hub import PlainCNN
from spacelang.models import Layer, LayeredSpace, kept_layers
from spacelang.trials import Exhausted, Proposal

CONV = [Layer(4, 3)]
FIRST = (*[tuple(CONV)] * 4, (Layer(8),))
SMALL: dict[str, Any] = {"dataset": (1, 8, 3), "num_blocks": 2, "max_layers": 4, "max_hidden_layers": 3}


def small(**settings: Any) -> PlainCNN:
    return PlainCNN(**(SMALL | settings))


def test_the_default_is_the_first_network_of_eas() -> None:
    """Four convolutions of 4 channels, a linear layer of 8, batch norms, and a classifier."""
    space = PlainCNN(max_layers=1, max_hidden_layers=1)
    assert space.blocks_of(space.default()) == FIRST
    convs = 9 * 4 * (3 + 4 + 4 + 4) + 4 * (2 * 4)
    with model_context(space.default()):
        model = PlainCNN(max_layers=1, max_hidden_layers=1)
    assert sum(p.numel() for p in model.parameters()) == convs + (4 * 8 + 2 * 8) + (8 * 10 + 10) == 710


def test_number_of_architectures() -> None:
    """A block of one or two of ten widths and three kernels; one linear layer of ten widths."""
    assert PlainCNN(max_layers=2, max_hidden_layers=1).size() == (30 + 30**2) ** 4 * 10


def test_layers_and_architectures() -> None:
    space = small()
    assert isinstance(space, LayeredSpace)
    blocks = ((Layer(4, 1), Layer(8, 5), Layer(12, 3)), (Layer(40, 3),), (Layer(16), Layer(8)))
    arch = space.architecture_with(blocks)
    assert arch["block0/width_0"] == 12  # the last one
    assert arch["block0/kernel_2"] == 1
    assert space.blocks_of(space.canonical(arch)) == blocks
    for seed in range(20):
        drawn = space.sample(np.random.default_rng(seed))
        assert space.architecture_with(space.blocks_of(drawn)).items() == drawn.items()


def test_the_next_block_reads_the_last_layer_that_is_there() -> None:
    space = small()
    model = space.freeze(space.architecture_with(((Layer(4, 1), Layer(12, 3)), (Layer(8, 3),), (Layer(16),))))
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.kernel_size[0]) for c in convs] == [
        (1, 4, 1),
        (4, 12, 3),
        (12, 8, 3),
    ]


def ways(small_block: list[Layer], large_block: list[Layer]) -> list[tuple[int, ...]]:
    """Every way by trying out: which layers of the large block are those of the small one."""
    found = []
    for chosen in product([False, True], repeat=len(large_block)):
        kept = [k for k, is_kept in enumerate(chosen) if is_kept]
        if len(kept) != len(small_block) or not chosen[0]:
            continue
        fits = all(
            large_block[k].kernel == layer.kernel and large_block[k].width >= layer.width
            for k, layer in zip(kept, small_block, strict=True)
        )
        copies = [k for k in range(len(large_block)) if k not in kept]
        if fits and all(large_block[k].width == large_block[k - 1].width for k in copies):
            found.append(tuple(kept))
    return found


@pytest.mark.parametrize("seed", range(30))
def test_which_layers_come_from_a_smaller_block(seed: int) -> None:
    rng = np.random.default_rng(seed)
    layers = [Layer(4, 1), Layer(4, 3), Layer(8, 3)]
    blocks = [[layers[k] for k in rng.integers(3, size=size)] for size in (rng.integers(1, 3), 4)]
    found, expected = kept_layers(*blocks), ways(*blocks)
    assert (found in expected) if expected else found is None


def trained(space: ModelSpace, blocks: Any) -> Any:
    """A network whose batch norms have statistics and parameters of their own."""
    torch.manual_seed(0)
    model: Any = space.freeze(space.architecture_with(blocks)).double()  # type: ignore[operator]
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.uniform_(-0.2, 0.2)
    for _ in range(30):  # until the statistics are about those of the images
        model.train()(torch.randn(16, 1, 8, 8, dtype=torch.float64))
    return model.eval()


def images() -> Tensor:
    return torch.randn(3, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


GROWN = (
    (
        (Layer(8, 3), Layer(8, 5), Layer(4, 1)),
        (Layer(12, 3), Layer(12, 1), Layer(12, 3)),
        (Layer(24), Layer(24)),
    ),
    ((Layer(4, 3), Layer(4, 1)), (Layer(4, 3),), (Layer(8),)),
)


@pytest.mark.parametrize("grown", GROWN)
def test_a_grown_network_computes_what_its_parent_does(grown: Any) -> None:
    """Exactly, without noise; with the noise of EAS nearly."""
    torch.manual_seed(0)
    space = small()
    parent = trained(space, ((Layer(4, 3), Layer(4, 1)), (Layer(4, 3),), (Layer(8),)))
    child = trained(space, grown)
    larger = child.grown(parent, torch.Generator().manual_seed(0))
    assert [p.shape for p in larger.parameters()] == [p.shape for p in child.parameters()]
    assert parent(images()).std(dim=0).min() > 1e-6  # a signal passes
    torch.testing.assert_close(larger(images()), parent(images()), rtol=0, atol=1e-12)
    for parameter in child.parameters():
        nn.init.ones_(parameter)
    torch.manual_seed(0)
    child.inherit(parent)
    torch.testing.assert_close(child(images()), parent(images()), rtol=0, atol=0.1)
    assert torch.equal(child(images()), parent(images())) == (grown == GROWN[1])


def test_another_network_inherits_what_they_have_in_common() -> None:
    space = small()
    parent = trained(space, ((Layer(8, 3),), (Layer(4, 3),), (Layer(8),)))
    child = trained(space, ((Layer(4, 3),), (Layer(4, 3),), (Layer(8),)))
    assert child.grown(parent, torch.Generator()) is None
    child.inherit(parent)
    assert torch.equal(child.layers.block0[0][0].weight, parent.layers.block0[0][0].weight[:4])


class Growing:
    """A trial, and its child, which is wider and deeper."""

    has_end = True

    def start(self, space: Any) -> Growing:
        return self

    def ask(self, history: Any, rng: np.random.Generator) -> Proposal:
        if len(history) == 2:
            raise Exhausted("two are enough")
        arch = small().architecture_with(((Layer(4, 3),), (Layer(4, 3),), (Layer(8),)))
        if len(history) == 0:
            return Proposal(arch)
        return Proposal(
            small().architecture_with(((Layer(8, 3), Layer(8, 1)), (Layer(4, 3),), (Layer(8),))),
            note={"parent": 0},
        )


class Output:
    """The first logit for fixed images, in evaluation."""

    def evaluate(self, model: Any, report: Any = None) -> dict[str, float]:
        with torch.no_grad():
            return {"default": float(model.eval()(images().float()).sum())}


def test_trials_inherit_by_net2net(tmp_path: Any) -> None:
    experiment = Experiment(small(), Output(), Growing(), directory=tmp_path, inherit="parent")
    experiment.run()
    first, child = (trial.metrics["default"] for trial in experiment.history)
    assert child == pytest.approx(first, abs=0.05)


def test_misuse() -> None:
    with pytest.raises(SpaceError, match="num_blocks=5 halve images of 8 pixels too often"):
        small(num_blocks=5)
    with pytest.raises(SpaceError, match="must be odd"):
        small(kernel_sizes=(2, 3))
