"""The DARTS space: exact counts, both networks, drop path, arguments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from spacelang import SpaceError, hub, model_context
from spacelang.hub import DARTS
from spacelang.hub.cells import cell_space as cells_module
from spacelang.hub.operations.cell_operations import DARTS_OPERATIONS, DropPath
from spacelang.language import is_frozen

pytestmark = pytest.mark.slow

DIGITS = (1, 8, 10)


def n_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def small(arch: str = "darts-v2", **arguments: Any) -> DARTS:
    given = {"width": 4, "num_cells": 3, "dataset": DIGITS, **arguments}
    return DARTS.load_searched_model(arch, **given)


def test_parameters_of_the_search_network() -> None:
    """As the paper's own code has it."""
    with torch.device("meta"):
        assert n_parameters(DARTS(width=16, num_cells=8, dataset="cifar")) == 1_930_618


def operation_parameters(name: str, channels: int, stride: int) -> int:
    if name == "skip_connect":
        return channels**2 + 2 * channels if stride == 2 else 0
    if "pool" in name:
        return 0
    return (2 if name.startswith("sep") else 1) * (int(name[-1]) ** 2 * channels + channels**2 + 2 * channels)


def closed_form(arch: dict[str, Any], width: int, num_cells: int, classes: int) -> int:
    """Return the parameters of an evaluation network on colour images, counted without building anything."""
    total, before, last, channels = 81 * width + 6 * width, 3 * width, 3 * width, width
    for index in range(num_cells):
        reduction = index in (num_cells // 3, 2 * num_cells // 3)
        cell, channels = ("reduce", 2 * channels) if reduction else ("normal", channels)
        total += (before + last) * channels + 4 * channels
        for node in range(2, 6):
            for slot in range(2):
                stride = 2 if reduction and arch[f"{cell}/input_{node}_{slot}"] < 2 else 1
                total += operation_parameters(arch[f"{cell}/op_{node}_{slot}"], channels, stride)
        before, last = last, 4 * channels
    return total + last * classes + classes


@pytest.mark.parametrize("num_cells", [1, 2, 3, 5, 8])
def test_random_architectures_have_their_closed_form_count(num_cells: int) -> None:
    space = DARTS(width=2, num_cells=min(num_cells, 3), dataset=(3, 8, 7))  # the same labels at any depth
    rng = np.random.default_rng(num_cells)
    for _ in range(5):
        arch = space.sample(rng)
        with model_context(arch), torch.device("meta"):
            model = DARTS(width=6, num_cells=num_cells, dataset=(3, 8, 7))
        assert n_parameters(model) == closed_form(arch, 6, num_cells, 7)


def test_size_and_decisions_of_the_default_space() -> None:
    with torch.device("meta"):
        space = DARTS()
    assert space.size() == 1_037_664_180**2
    assert len(space.decisions) == 32
    labels = {decision.label: decision for decision in space.decisions}
    assert tuple(labels["normal/op_2_0"].candidates) == DARTS_OPERATIONS
    assert tuple(labels["reduce/input_5_1"].candidates) == (0, 1, 2, 3, 4)


def test_inputs_of_a_node_may_coincide_on_request() -> None:
    small_space = {"width": 2, "num_cells": 1, "num_nodes": 1, "operations": ("skip_connect", "max_pool_3x3")}
    assert DARTS(**small_space).size() == 4  # 1 pair of inputs, 2 * 2 operations
    assert DARTS(**small_space, distinct_inputs=False).size() == 10  # multisets of 2 from 2 * 2 slots


@pytest.mark.parametrize(
    ("dataset", "shape", "num_cells"),
    [("cifar", (3, 32, 32), 3), (DIGITS, (1, 8, 8), 3), (DIGITS, (1, 8, 8), 6), ((2, 15, 4), (2, 15, 15), 4)],
)
def test_the_search_network_learns(dataset: Any, shape: tuple[int, ...], num_cells: int) -> None:
    space = DARTS(width=4, num_cells=num_cells, dataset=dataset)
    logits = space(torch.randn(2, *shape))
    logits.sum().backward()
    assert logits.shape == (2, 4 if dataset == (2, 15, 4) else 10)
    assert space.stem0[0].weight.grad is not None
    with model_context(space.sample(np.random.default_rng(0))):
        model = DARTS(width=4, num_cells=num_cells, dataset=dataset)
    model(torch.randn(2, *shape)).sum().backward()
    assert all(p.grad is not None for p in model.classifier.parameters())


def test_imagenet_halves_three_times_before_the_first_cell() -> None:
    model = small(dataset="imagenet", num_classes=5, auxiliary_loss=True, num_cells=3)
    images = torch.randn(2, 3, 224, 224)
    before = model.stem0(images)
    assert before.shape == (2, 4, 56, 56)
    assert model.stem1(before).shape == (2, 4, 28, 28)
    logits, auxiliary = model(images)
    assert logits.shape == auxiliary.shape == (2, 5)


def test_the_search_network_has_no_affine_norms_but_the_stem() -> None:
    space = DARTS(width=4, num_cells=3, dataset=DIGITS)
    affine = [name for name, m in space.named_modules() if isinstance(m, nn.BatchNorm2d) and m.affine]
    assert affine == ["stem0.1"]
    assert not space.affine
    assert not any(isinstance(module, DropPath) for module in space.modules())


def test_the_evaluation_network_is_plain() -> None:
    model = small()
    assert is_frozen(model)
    assert model.affine
    assert all(m.affine for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    assert not any("none" in key for key in model.state_dict())


def test_affine_may_be_given() -> None:
    assert n_parameters(small(affine=False)) < n_parameters(small())
    space = DARTS(width=4, num_cells=1, affine=True)
    assert all(m.affine for m in space.modules() if isinstance(m, nn.BatchNorm2d))


def test_freezing_keeps_modules_and_weights_of_the_search_network() -> None:
    space = DARTS(width=4, num_cells=3, dataset=DIGITS)
    arch = hub.architecture("nni-tutorial")
    frozen = space.freeze(arch)
    assert not frozen.affine
    assert torch.equal(frozen.stem0[0].weight, space.stem0[0].weight)
    with model_context(arch):
        again = DARTS(**frozen.arguments)
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in frozen.state_dict().items()
    }
    again.load_state_dict(frozen.state_dict())
    images = torch.randn(3, 1, 8, 8)
    assert torch.equal(again.eval()(images), frozen.eval()(images))
    assert "affine" not in space.arguments


def test_model_context_builds_chosen_operations_only(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    make_operation = cells_module.make_operation

    def counted(name: str, *args: Any, **kwargs: Any) -> nn.Module:
        built.append(name)
        return make_operation(name, *args, **kwargs)

    monkeypatch.setattr(cells_module, "make_operation", counted)
    small(num_cells=5)
    arch = hub.architecture("darts-v2")
    per_cell = {
        cell: sorted(arch[f"{cell}/op_{n}_{k}"] for n in range(2, 6) for k in (0, 1))
        for cell in ("normal", "reduce")
    }
    assert sorted(built) == sorted(3 * per_cell["normal"] + 2 * per_cell["reduce"])
    built.clear()
    DARTS(width=4, num_cells=2)
    assert len(built) == 2 * 14 * 7


def test_auxiliary_logits_in_training_only() -> None:
    model = small(auxiliary_loss=True, num_cells=6)
    images = torch.randn(4, 1, 8, 8)
    logits, auxiliary = model(images)
    assert logits.shape == auxiliary.shape == (4, 10)
    auxiliary.sum().backward()
    gradients = [cell.frame.preprocessor.preprocess1[1].weight.grad is not None for cell in model.cells]
    assert gradients == [True] * 5 + [False]  # it hangs on cell 4 = floor(2 * 6 / 3)
    assert model.eval()(images).shape == (4, 10)
    assert small().auxiliary_head is None


def test_every_operation_but_the_identity_has_drop_path() -> None:
    model = small("darts-v2", num_cells=3, drop_path_prob=0.2)
    arch = hub.architecture("darts-v2")
    assert sum(op == "skip_connect" for label, op in arch.items() if label.startswith("normal")) == 2
    # A normal cell: 6 of 8. A reduction cell: its 3 skips read node 2 at stride 1, so 5 of 8.
    dropped = [sum(isinstance(m, DropPath) for m in cell.modules()) for cell in model.cells]
    assert dropped == [6, 5, 5]
    reduced = {**arch, "reduce/op_2_0": "skip_connect"}  # stride 2: a factorized reduction, dropped too
    with model_context(reduced):
        other = DARTS(width=4, num_cells=3, dataset=DIGITS)
    assert [sum(isinstance(m, DropPath) for m in cell.modules()) for cell in other.cells] == [6, 5, 5]


def test_drop_path_schedule() -> None:
    model = small(drop_path_prob=0.2)
    for epoch in range(4):
        model.set_drop_path_prob(model.drop_path_prob * epoch / 4)
        assert {m.p for m in model.modules() if isinstance(m, DropPath)} == {0.2 * epoch / 4}
    assert model.drop_path_prob == 0.2
    images = torch.randn(64, 1, 8, 8)
    torch.manual_seed(0)
    first = model(images)
    torch.manual_seed(0)
    assert torch.equal(first, model(images))
    assert not torch.equal(first, model(images))
    model.set_drop_path_prob(0.0)
    assert torch.equal(model(images), model(images))
    for wrong in (1.0, -0.5, "a"):
        with pytest.raises(SpaceError, match=r"p=.* must be a number of at least 0 and below 1"):
            model.set_drop_path_prob(wrong)  # type: ignore[arg-type]


def test_drop_path_of_a_search_network() -> None:
    space = DARTS(width=4, num_cells=1, dataset=DIGITS)
    space.set_drop_path_prob(0.0)
    with pytest.raises(SpaceError, match="built without drop path"):
        space.set_drop_path_prob(0.1)
    with_it = DARTS(width=4, num_cells=1, dataset=DIGITS, drop_path_prob=0.1)
    with_it.set_drop_path_prob(0.05)
    assert {m.p for m in with_it.modules() if isinstance(m, DropPath)} == {0.05}


def test_state_dicts_do_not_depend_on_drop_path() -> None:
    assert small(drop_path_prob=0.3).state_dict().keys() == small().state_dict().keys()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"width": 0}, "width=0 must be an integer of at least 1"),
        ({"width": 1.5}, "width"),
        ({"num_cells": 0}, "num_cells"),
        ({"num_nodes": -1}, "num_nodes"),
        ({"num_classes": 0}, "num_classes"),
        ({"dataset": "cifer"}, "dataset='cifer' must be 'cifar', 'imagenet' or .* Closest: 'cifar'"),
        ({"dataset": (1, 8)}, "channels, size, classes"),
        ({"dataset": (1, 0, 10)}, "dataset: size=0 must be an integer of at least 1"),
        ({"dataset": None}, "dataset"),
        ({"operations": ("sep_conv_3",)}, "operation='sep_conv_3' must be one of.*Closest: 'sep_conv_3x3'"),
        ({"drop_path_prob": 1.0}, "drop_path_prob=1.0 must be a number of at least 0 and below 1"),
        ({"dataset": "imagenet", "width": 7}, "even width"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], expected: str) -> None:
    with pytest.raises(SpaceError, match=expected):
        DARTS(**arguments)


def test_a_smaller_cell_space() -> None:
    space = DARTS(
        width=4, num_cells=3, dataset=DIGITS, num_nodes=2, operations=["skip_connect", "sep_conv_3x3"]
    )
    assert len(space.decisions) == 16
    assert space.size() == (2**2 * 3 * 2**2) ** 2
    assert space(torch.randn(2, 1, 8, 8)).shape == (2, 10)
    with model_context(space.default()):
        assert space.rebuild(width=8).classifier.in_features == 2 * 4 * 8


def test_missing_decisions_are_named() -> None:
    arch = hub.architecture("darts-v2")
    del arch["reduce/op_4_1"]
    with model_context(arch), pytest.raises(SpaceError, match="reduce/op_4_1"):
        DARTS(width=4, num_cells=3, dataset=DIGITS)
