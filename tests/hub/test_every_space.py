"""What holds for every space of the hub: sizes, training, one network by every way, profiles, ONNX."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spacelang import ModelSpace, SpaceError, Supernet, export_onnx, hub, profile
from spacelang.hub import RecurrentLM, RNNCell
from spacelang.hub.published import read_entry
from spacelang.language import is_frozen

from ..toys.hub import SMALL, Small, narrowed, small_space
from .networks import n_macs_of, n_parameters, use_statistics_of

pytestmark = pytest.mark.slow

ONE_PATH_ONLY = ("DARTS-sizes", "ENAS-sizes", "FairDARTS-width", "NASBench101")


def test_the_table_is_complete() -> None:
    spaces = {item for item in vars(hub).values() if isinstance(item, type) and issubclass(item, ModelSpace)}
    assert {small.kind for small in SMALL.values()} == spaces
    assert {kind.__name__ for kind in spaces} < SMALL.keys()


@pytest.mark.parametrize("name", SMALL)
def test_number_of_architectures(name: str) -> None:
    assert small_space(name).size() == SMALL[name].size


@pytest.mark.parametrize("count", [4, pytest.param(20, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("name", SMALL)
def test_default_and_random_architectures(name: str, count: int) -> None:
    """They train, and are one network: constructed, frozen from space or supernet, selected in a supernet."""
    space, rng = small_space(name), np.random.default_rng(0)
    supernet = Supernet(space, memory_format=None)
    for arch in [space.default(), *(space.sample(rng) for _ in range(count))]:
        space.validate(arch)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a label that no choice asks for
            built = SMALL[name].build(arch, space)
        check_training(built, SMALL[name].inputs())
        check_same(built, space, supernet, arch, SMALL[name].inputs())


def first_tensor(output: Any) -> Tensor:
    """The logits, where a recurrent state comes after them."""
    tensor: Tensor = output[0] if isinstance(output, tuple) else output
    return tensor


def check_training(model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Forward and backward."""
    assert is_frozen(model)
    logits = first_tensor(model.train()(*inputs))
    assert logits.shape[0] == len(inputs[0])
    logits.square().sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]  # a vertex may read nothing
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients)


def check_same(
    built: nn.Module,
    space: ModelSpace,
    supernet: Supernet,
    arch: Mapping[str, Any],
    inputs: tuple[Tensor, ...],
) -> None:
    """Weights, outputs in both modes, and running statistics after a batch of training."""
    supernet.select(arch)
    frozen, inherited = supernet.freeze(arch), space.freeze(arch)
    own = {parameter.data_ptr() for parameter in (*space.parameters(), *supernet.parameters())}
    assert own.isdisjoint(p.data_ptr() for network in (frozen, inherited) for p in network.parameters())
    assert all(map(torch.equal, frozen.parameters(), inherited.parameters()))
    built.load_state_dict(frozen.state_dict())
    inherited.load_state_dict(frozen.state_dict())
    for training in (True, False):
        networks = [network.train(training) for network in (frozen, inherited, built)]
        expected = first_tensor(supernet.train(training)(*inputs))
        assert expected.std() > (1e-3 if training else 0)  # with first statistics signals vanish
        for network in networks:
            found = first_tensor(network(*inputs))
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * expected.abs().max().item())
    after = supernet.freeze(arch).state_dict()
    for key, value in frozen.state_dict().items():
        torch.testing.assert_close(after[key], value, rtol=0, atol=1e-10)


Supernets = Callable[[Small], tuple[ModelSpace, Supernet]]


@pytest.fixture(scope="module")
def supernets() -> Supernets:
    """Space and supernet of a row of the table; the last ones are kept."""
    kept: list[Any] = [None, None]

    def get(small: Small) -> tuple[ModelSpace, Supernet]:
        if kept[0] != small:
            space = small.make()
            kept[:] = small, (space, Supernet(space, memory_format=None))
        return kept[1]  # type: ignore[no-any-return]

    return get


def published() -> Iterator[Any]:
    """Names of published architectures by space; one of each is tried every time."""
    names = sorted(hub.list_models(), key=lambda name: read_entry(name).space)
    for _, alike in groupby(names, key=lambda name: read_entry(name).space):
        for index, name in enumerate(alike):
            yield name if index < 1 else pytest.param(name, marks=pytest.mark.exhaustive)


@pytest.mark.parametrize("name", list(published()))
def test_published_architectures(name: str, supernets: Supernets) -> None:
    """Freezing is the supernet's path for them too (tests of each space train them)."""
    entry = read_entry(name)
    small = narrowed(entry)
    space, supernet = supernets(small)
    space.validate(entry.architecture)
    assert space.canonical(entry.architecture).keys() == entry.architecture.keys()
    check_same(small.build(entry.architecture, space), space, supernet, entry.architecture, small.inputs())


LAYERS = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.LayerNorm, nn.MaxPool2d, nn.AvgPool2d)


def in_single(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.float() if x.is_floating_point() else x for x in inputs)


def layers_of(model: nn.Module) -> Counter[type]:
    return Counter(type(module) for module in model.modules() if type(module) in LAYERS)


@pytest.fixture
def constructed(monkeypatch: pytest.MonkeyPatch) -> Counter[type]:
    """Count the layers of each kind that were constructed."""
    counts: Counter[type] = Counter()

    def counting(layer: type) -> Callable[..., None]:
        original = layer.__init__

        @wraps(original)
        def init(self: nn.Module, *args: Any, **kwargs: Any) -> None:
            counts[layer] += type(self) is layer
            original(self, *args, **kwargs)

        return init

    for layer in LAYERS:
        monkeypatch.setattr(layer, "__init__", counting(layer))
    return counts


def published_spaces() -> Iterator[Any]:
    """Names of spaces with entries; a cell space, a chain and a transformer are tried every time."""
    for name in sorted({read_entry(name).space for name in hub.list_models()}):
        few = ("DARTS", "MobileNetV3Space", "AutoFormer")
        yield name if name in few else pytest.param(name, marks=pytest.mark.exhaustive)


@pytest.mark.parametrize("space", list(published_spaces()))
def test_a_published_architecture_builds_its_layers_alone(space: str, constructed: Counter[type]) -> None:
    name = next(name for name in hub.list_models() if read_entry(name).space == space)
    with torch.device("meta"):
        network = hub.load(name)
        assert constructed == layers_of(network)
        constructed.clear()
        getattr(hub, space)(**read_entry(name).arguments)
    # Every candidate; but those of recurrent cells share one layer, and the entry is the largest network.
    same = {"RecurrentLM", "OnceForAll"}
    assert constructed.total() > layers_of(network).total() or space in same


@pytest.mark.parametrize("name", SMALL)
def test_mixtures(name: str) -> None:
    """A supernet mixes its candidates, or says why it cannot."""
    space = small_space(name)
    supernet = Supernet(space)
    assert bool(supernet.soft_refusals()) == (name in ONE_PATH_ONLY)
    if name in ONE_PATH_ONLY:
        with pytest.raises(SpaceError, match=r"call supernet\.select"):
            supernet(*SMALL[name].inputs())
    else:
        first_tensor(supernet(*SMALL[name].inputs())).square().sum().backward()
        assert any(parameter.grad is not None for parameter in supernet.network.parameters())
    assert first_tensor(space(*SMALL[name].inputs())).isfinite().all()


@pytest.mark.parametrize("name", SMALL)
def test_profiles(name: str) -> None:
    space = small_space(name)
    arch = space.sample(np.random.default_rng(5))
    model = SMALL[name].build(arch, space)
    inputs = SMALL[name].inputs(1)
    found = profile(model, inputs)
    assert found.parameters == n_parameters(model)
    # Products of activations, or with the embedding's weight, belong to no layer.
    others = name in ("AutoFormer", "GPT", "RecurrentLM", "GraphCells-points")
    assert (found.macs > n_macs_of(model, *inputs)) == others
    assert others or found.macs == n_macs_of(model, *inputs)
    assert space.graph.number_of_nodes() > 0
    assert space.hash(arch) == space.hash(space.canonical(arch))


# Spaces of each kind of operation; others are like them.
EXPORTED = (
    *("DARTS", "ENASMacro", "MobileNetV3Space", "OnceForAll", "AutoFormer", "GPT", "RecurrentLM"),
    *("GraphCells", "NASBench101", "MLP", "VGG", "DenseNAS", "HierarchicalCells"),
)


def exported() -> Iterator[Any]:
    """Names of spaces; one of each kind is exported every time."""
    for name, small in SMALL.items():
        if name == small.kind.__name__:
            yield name if name in EXPORTED else pytest.param(name, marks=pytest.mark.exhaustive)


@pytest.mark.parametrize("name", list(exported()))
def test_onnx(name: str, tmp_path: Path) -> None:
    space = small_space(name)
    depths = {label: value for label, value in space.default().items() if "depth" in label}  # the least
    arch = space.canonical({**space.sample(np.random.default_rng(6)), **depths})
    model, inputs = space.freeze(arch).float(), in_single(SMALL[name].inputs())
    settings: dict[str, Any] = {}
    if name == "GraphCells":
        use_statistics_of(model, *inputs)
        settings = {"dynamic": [{0: "nodes"}, {1: "edges"}]}
    else:
        # export_onnx adds as much noise to the inputs it compares
        noise = [x[3:] if x.is_floating_point() else 0 for x in in_single(SMALL[name].inputs(6))]
        use_statistics_of(model, *(x + n for x, n in zip(inputs, noise, strict=True)))
    if isinstance(model, RNNCell | RecurrentLM):
        settings = {"batch_sizes": (2, 3)}  # the search cell uses the statistics of a batch
    written = export_onnx(model, tmp_path / "model.onnx", inputs, arch=arch, **settings)
    assert written.max_difference < 1e-4
