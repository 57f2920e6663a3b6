"""The DARTS cell space and the networks it makes: for search, and for evaluation under `model_context`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeAlias

from torch import Tensor, nn

from spacelang import Cell, ModelSpace
from spacelang.errors import SpaceError, closest, quoted
from spacelang.language import current_architecture

from . import _entries
from .operations import (
    DARTS_OPERATIONS,
    DropPath,
    check_operations,
    check_probability,
    cifar_auxiliary_head,
    cifar_stem,
    factorized_reduce,
    imagenet_auxiliary_head,
    imagenet_stems,
    make_operation,
    relu_conv_bn,
)

Dataset: TypeAlias = Literal["cifar", "imagenet"] | tuple[int, int, int]

STEM_MULTIPLIER = 3  # the CIFAR stem has 3 * width channels


@dataclass(frozen=True)
class _Data:
    """Images (channels, size, size) and their classes; `imagenet` selects the stem that divides size by 8."""

    channels: int
    size: int
    num_classes: int
    imagenet: bool = False


_DATASETS = {"cifar": _Data(3, 32, 10), "imagenet": _Data(3, 224, 1000, imagenet=True)}


@dataclass(frozen=True)
class _CellPlan:
    """Sizes of one cell; `after_reduction` says that its older input is twice as large as its newer one."""

    in_channels: tuple[int, int]
    channels: int
    out_channels: int
    size: int
    reduction: bool
    after_reduction: bool


class DARTS(ModelSpace):
    """The cell space of DARTS: normal cells, and reduction cells at a third and two thirds of the depth.

    A cell has two inputs (the two cells before) and `num_nodes` nodes; a node sums two operations on two
    earlier nodes and the cell's output is all nodes, concatenated. The labels are those of two shared cells,
    "normal" and "reduce". Reductions halve the map and double the channels. Source: arXiv:1806.09055.

    One class makes two networks, told apart by `affine`. The search network has batch norms without
    parameters (the stem excepted) and a batch norm behind every pool; the evaluation network has batch norms
    with parameters, plain pools and drop path. `affine=None` takes the search network where a space is
    declared and the evaluation network under `model_context`. `space.freeze(arch)` keeps the modules and
    weights of the network it copies.

    Args:
        width: channels of the first cell (16 for search, 36 and 48 for evaluation in the paper). Even for
            ImageNet.
        num_cells: number of cells, at least 1.
        dataset: "cifar" (3x32x32 images), "imagenet" (3x224x224, a stem that divides the size by 8), or
            (channels, size, classes) of square images, with the CIFAR stem.
        num_classes: overrides the dataset's 10, 1000 or third entry; 100 for CIFAR-100.
        num_nodes: nodes of a cell.
        auxiliary_loss: adds the auxiliary head after the cell at two thirds of the depth; in training mode
            the network then returns (logits, auxiliary logits).
        drop_path_prob: initial rate of every `DropPath`, and the attribute a schedule takes its maximum from.
        operations: names of the candidate operations, in the order of the decisions' candidates.
        distinct_inputs: the two inputs of a node must differ, as in the paper.
        affine: False for the search network, True for the evaluation network, None for the rule above.

    Raises:
        SpaceError: an argument is out of range; says what is legal.
    """

    def __init__(
        self,
        width: int = 16,
        num_cells: int = 8,
        dataset: Dataset = "cifar",
        *,
        num_classes: int | None = None,
        num_nodes: int = 4,
        auxiliary_loss: bool = False,
        drop_path_prob: float = 0.0,
        operations: Sequence[str] = DARTS_OPERATIONS,
        distinct_inputs: bool = True,
        affine: bool | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("width", width), ("num_cells", num_cells), ("num_nodes", num_nodes)):
            _check_positive(name, value)
        data = _resolve_dataset(dataset, num_classes)
        self.affine = current_architecture() is not None if affine is None else affine
        self.drop_path_prob = check_probability(drop_path_prob)
        self.stem0, self.stem1 = _stems(data, width)

        plans = _plan_cells(data, width, num_cells, num_nodes)
        build_operation = partial(
            _edge_operation,
            affine=self.affine,
            drop_path=self.drop_path_prob if self.affine or self.drop_path_prob else None,
        )
        names = check_operations(operations)
        self.cells = nn.ModuleList(
            Cell(
                {name: partial(build_operation, name, plan) for name in names},
                num_nodes=num_nodes,
                num_ops_per_node=2,
                num_predecessors=2,
                merge_op="all",
                preprocessor=CellInputs(plan, self.affine),
                distinct_inputs=distinct_inputs,
                label="reduce" if plan.reduction else "normal",
            )
            for plan in plans
        )
        self.auxiliary_index = 2 * num_cells // 3
        auxiliary = plans[self.auxiliary_index]
        self.auxiliary_head = _auxiliary_head(auxiliary, data, self.affine) if auxiliary_loss else None
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(plans[-1].out_channels, data.num_classes)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Classify images, (B, channels, H, W).

        Returns:
            Logits, (B, num_classes); with `auxiliary_loss` in training mode the pair (logits, auxiliary
            logits).
        """
        before = self.stem0(images)
        last = self.stem1(before)
        auxiliary_logits = None
        for index, cell in enumerate(self.cells):
            before, last = last, cell([before, last])
            if self.training and self.auxiliary_head is not None and index == self.auxiliary_index:
                auxiliary_logits = self.auxiliary_head(last)
        logits: Tensor = self.classifier(self.pool(last).flatten(1))
        return logits if auxiliary_logits is None else (logits, auxiliary_logits)

    def set_drop_path_prob(self, p: float) -> None:
        """Set the current rate of every `DropPath`; `drop_path_prob` stays what the constructor was given.

        Raises:
            SpaceError: p is outside 0 <= p < 1, or positive on a network built without drop path (a search
                network whose `drop_path_prob` was 0).
        """
        p = check_probability(p)
        modules = [module for module in self.modules() if isinstance(module, DropPath)]
        if p > 0 and not modules:
            raise SpaceError(
                f"set_drop_path_prob({p:g}): this network was built without drop path, like search networks. "
                "Build it under model_context(arch), or with drop_path_prob > 0."
            )
        for module in modules:
            module.p = p

    @property
    def arguments(self) -> dict[str, Any]:
        """Constructor arguments as given; of a fixed network also `affine`, which its construction decided.

        So `model_context(arch)` with these arguments builds the same modules again, also those of a network
        frozen from a search network.
        """
        return super().arguments if self.decisions else {**super().arguments, "affine": self.affine}

    @classmethod
    def load_searched_model(cls, name: str, *, pretrained: bool = False, **overrides: Any) -> DARTS:
        """Build a published architecture as a plain network, for example "darts-v2" (36 channels, 20 cells).

        Args:
            name: an entry of `spacelang.hub.list_models()`.
            pretrained: True asks for weights; no entry of this space publishes any.
            overrides: constructor arguments in place of the entry's, such as `num_classes=100`.

        Raises:
            SpaceError: unknown name (names the closest), an entry of another space, or weights asked for.
        """
        entry = _entries.read_entry(name)
        model: DARTS = entry.build(cls, pretrained=pretrained, overrides=overrides)
        return model


class CellInputs(nn.Module):
    """Bring the outputs of the two cells before to a cell's channels and size.

    The older one is reduced when the cell between was a reduction. (B, C_0, H_0, W_0), (B, C_1, H, W) -> two
    maps (B, C, H, W).
    """

    def __init__(self, plan: _CellPlan, affine: bool) -> None:
        super().__init__()
        older = factorized_reduce if plan.after_reduction else relu_conv_bn
        self.preprocess0 = older(plan.in_channels[0], plan.channels, affine)
        self.preprocess1 = relu_conv_bn(plan.in_channels[1], plan.channels, affine)

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return both inputs as (B, C, H, W)."""
        older, newer = inputs
        return [self.preprocess0(older), self.preprocess1(newer)]


def _plan_cells(data: _Data, width: int, num_cells: int, num_nodes: int) -> list[_CellPlan]:
    """Lay out the cells: reductions at floor(L / 3) and floor(2 L / 3), each doubling the channels."""
    multiplier = 1 if data.imagenet else STEM_MULTIPLIER
    before = last = multiplier * width
    size = data.size // 8 if data.imagenet else data.size
    channels, after_reduction = width, data.imagenet
    plans = []
    for index in range(num_cells):
        reduction = index in (num_cells // 3, 2 * num_cells // 3)
        if reduction:
            channels, size = 2 * channels, (size + 1) // 2
        plan = _CellPlan((before, last), channels, num_nodes * channels, size, reduction, after_reduction)
        before, last, after_reduction = last, plan.out_channels, reduction
        plans.append(plan)
    return plans


def _edge_operation(
    name: str,
    plan: _CellPlan,
    node: int,
    slot: int | None,
    source: int,
    *,
    affine: bool,
    drop_path: float | None,
) -> nn.Module:
    """Build a candidate of one edge; edges from a reduction cell's two inputs have stride 2."""
    stride = 2 if plan.reduction and source < 2 else 1
    return make_operation(name, plan.channels, stride, affine=affine, drop_path=drop_path)


def _stems(data: _Data, width: int) -> tuple[nn.Module, nn.Module]:
    """Return what makes the first cell's older input from the images, and its newer input from the older."""
    if data.imagenet:
        return imagenet_stems(data.channels, width)
    return cifar_stem(data.channels, STEM_MULTIPLIER * width), nn.Identity()


def _auxiliary_head(plan: _CellPlan, data: _Data, affine: bool) -> nn.Module:
    if data.imagenet:
        return imagenet_auxiliary_head(plan.out_channels, data.num_classes, affine)
    return cifar_auxiliary_head(plan.out_channels, data.num_classes, plan.size, affine)


def _resolve_dataset(dataset: object, num_classes: int | None) -> _Data:
    """Translate the `dataset` and `num_classes` arguments."""
    if isinstance(dataset, (list, tuple)) and len(dataset) == 3:
        for name, value in zip(("channels", "size", "classes"), dataset, strict=True):
            _check_positive(f"dataset's {name}", value)
        data = _Data(*dataset)
    elif isinstance(dataset, str) and dataset in _DATASETS:
        data = _DATASETS[dataset]
    else:
        raise SpaceError(
            f"dataset must be {quoted(_DATASETS)} or (channels, size, classes), got {dataset!r}."
            f"{closest(dataset, _DATASETS)}"
        )
    if num_classes is None:
        return data
    _check_positive("num_classes", num_classes)
    return replace(data, num_classes=num_classes)


def _check_positive(name: str, value: object) -> None:
    if type(value) is not int or value < 1:
        raise SpaceError(f"{name} must be an integer of at least 1, got {value!r}.")
