"""The builder shared by cell spaces: stems, cells in three stages, auxiliary head, classifier.

Two cells, "normal" and "reduce", are stacked to a network. Papers differ in their `CellDesign`: the candidate
operations, the number of nodes, and which nodes make the output. Sources: NASNet, arXiv:1707.07012; DARTS,
arXiv:1806.09055; all of them in one frame: arXiv:1905.13214.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Literal, TypeAlias

from torch import Tensor, nn

from spacelang import Cell, value_choice
from spacelang.errors import SpaceError, require_integer, require_number, require_one_of
from spacelang.language import FrozenCell, Value, current_architecture

from ..images import Dataset, Images, resolve_images
from ..operations.cell_operations import (
    POOLS,
    Channels,
    DropPath,
    check_operations,
    cifar_auxiliary_head,
    cifar_stem,
    factorized_reduce,
    imagenet_auxiliary_head,
    imagenet_stems,
    make_operation,
    relu_conv_bn,
)
from ..operations.concat import AllNodes, Concat, LooseEnds, linear
from ..published import PublishedSpace
from .foreign_layouts import converted_cells, sizes_of
from .stack import CellStack

MergeOp: TypeAlias = Literal["all", "loose_end"]

STEM_MULTIPLIER = 3  # the CIFAR stem has 3 * width channels
INPUTS = 2  # a cell reads the two cells before it
SLOTS = 2  # operations that a node adds


@dataclass(frozen=True)
class CellDesign:
    """Design of a paper's cell.

    Args:
        operations: Names of the candidate operations, in the order of the decisions' candidates.
        num_nodes: Number of nodes; each adds two operations on two earlier nodes.
        merge_op: Nodes in the output: "all", or the nodes that no other node reads ("loose_end").
        distinct_inputs: Whether the two operations of a node must read different nodes.
        edges: Names of the candidates of each edge, by kind of cell, node by node and source by source; a
            kind that is not there has all operations on every edge.
    """

    operations: tuple[str, ...]
    num_nodes: int
    merge_op: MergeOp
    distinct_inputs: bool = False
    edges: Mapping[str, tuple[tuple[str, ...], ...]] = field(default_factory=dict)

    def on_edge(self, kind: str, node: int, source: int) -> tuple[str, ...]:
        """Return the names of the candidates of an edge."""
        return self.edges[kind][sum(range(INPUTS, node)) + source] if kind in self.edges else self.operations


@dataclass(frozen=True)
class Source:
    """Source of a cell's input: the stem or a kind of cell, whose nodes have `multiple` times the width."""

    kind: str
    multiple: int


@dataclass(frozen=True)
class CellPlan:
    """Sizes of one cell; `after_reduction` tells that its older input is twice as large as its newer one.

    `stage` and `index` number the cells of a network: a reduction has index 0 of the stage it begins.
    """

    stage: int
    index: int
    inputs: tuple[Source, Source]
    multiple: int
    size: int
    reduction: bool
    after_reduction: bool

    @property
    def kind(self) -> str:
        """Return the label of the cell."""
        return "reduce" if self.reduction else "normal"

    @property
    def output(self) -> Source:
        """Return this cell as the source of later cells."""
        return Source(self.kind, self.multiple)


class CellSpace(PublishedSpace):
    """Normal cells, with reduction cells at a third and two thirds of the depth.

    A cell has two inputs (the two cells before) and `num_nodes` nodes; a node sums two operations on two
    earlier nodes. All cells share the labels of two, "normal" and "reduce". Reductions halve the map
    and double the channels.

    One class makes two networks; `affine` selects one. The search network has batch norms without parameters
    (except in the stem) and a batch norm after every pool. The evaluation network has batch norms with
    parameters, plain pools and drop path. `affine=None` selects the search network where a space is declared,
    and the evaluation network under `model_context`. `space.freeze(arch)` keeps the modules and weights of
    the network that it copies.

    Args:
        width: Channels of the first cell, an even number for ImageNet; a list makes a decision, "width".
        num_cells: Number of cells, at least 1; a list (each at least 4) makes a decision, "num_cells". Depths
            share the cells at the same place of the same stage where their inputs allow it.
        dataset: "cifar" (3x32x32 images), "imagenet" (3x224x224, a stem that divides the size by 8), or
            (channels, size, classes) of square images, with the CIFAR stem.
        num_classes: Overrides the dataset's 10, 1000 or third entry; 100 for CIFAR-100.
        num_nodes: Number of nodes in a cell, in place of the paper's.
        auxiliary_loss: Adds the auxiliary head after the cell at two thirds of the depth; in training mode
            the network then returns (logits, auxiliary logits).
        drop_path_prob: Initial rate of every `DropPath`; a schedule reads its maximum from this attribute.
        operations: Names of the candidate operations, in place of the paper's.
        merge_op: "all" or "loose_end", in place of the paper's.
        distinct_inputs: Whether the two inputs of a node must differ, in place of the paper's.
        affine: False for the search network, True for the evaluation network, None for the rule above.
        pool_norms: Whether pools of the evaluation network have a batch norm too, as DrNAS trains them.
        space: Name of one of the smaller spaces of the paper's cells, where there are some.

    Raises:
        SpaceError: an argument is out of range; the message names the legal values.
    """

    design: ClassVar[CellDesign]
    smaller: ClassVar[Mapping[str, CellDesign]] = {}

    def __init__(
        self,
        width: int | Sequence[int] = 16,
        num_cells: int | Sequence[int] = 8,
        dataset: Dataset = "cifar",
        *,
        num_classes: int | None = None,
        num_nodes: int | None = None,
        auxiliary_loss: bool = False,
        drop_path_prob: float = 0.0,
        operations: Sequence[str] | None = None,
        merge_op: MergeOp | None = None,
        distinct_inputs: bool | None = None,
        affine: bool | None = None,
        pool_norms: bool = False,
        space: str | None = None,
    ) -> None:
        super().__init__()
        require_one_of("space", space, (*self.smaller, None))
        design = self.design if space is None else self.smaller[space]
        self._design = _resolve_design(design, operations, num_nodes, merge_op, distinct_inputs)
        data = resolve_images(dataset, num_classes)
        self.affine = current_architecture() is not None if affine is None else affine
        self.pool_norms = pool_norms
        require_number("drop_path_prob", drop_path_prob, least=0, below=1)
        self.drop_path_prob = drop_path_prob
        channels: Channels = _number_or_choice("width", width)
        depth = _number_or_choice("num_cells", num_cells)
        self.stem0, self.stem1 = _stems(data, channels)

        sizes = {"stem": (1 if data.imagenet else STEM_MULTIPLIER) * channels}
        outputs: dict[str, nn.Module] = {}  # a cell of each kind

        def channels_of(source: Source) -> Channels | Concat:
            if source.kind in sizes:
                return sizes[source.kind]
            return self._output(outputs[source.kind], source.multiple * channels)

        def build(plan: CellPlan) -> nn.Module:
            older, newer = map(channels_of, plan.inputs)
            size = plan.multiple * channels
            inputs = CellInputs(older, newer, size, plan.after_reduction, self.affine)
            cell = self._cell(plan, size, inputs)
            outputs.setdefault(plan.kind, cell)
            return cell

        layouts = {n: plan_cells(data, n) for n in _possible(depth)}
        self.cells: Any = CellStack(depth, layouts, build)
        last, auxiliary = _ends(layouts, auxiliary_loss)
        self.auxiliary_head = (
            _auxiliary_head(channels_of(auxiliary.output), auxiliary.size, data, self.affine)
            if auxiliary_loss
            else None
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = linear(channels_of(last.output), data.num_classes)

    def _cell(self, plan: CellPlan, channels: Channels, inputs: nn.Module) -> nn.Module:
        """Build one cell."""
        design = self._design
        build = partial(self._operation, reduction=plan.reduction, channels=channels)

        def candidates(node: int, source: int) -> dict[str, Any]:
            return {name: partial(build, name) for name in design.on_edge(plan.kind, node, source)}

        return Cell(
            candidates,
            num_nodes=design.num_nodes,
            num_ops_per_node=SLOTS,
            num_predecessors=INPUTS,
            merge_op=design.merge_op,
            preprocessor=inputs,
            distinct_inputs=design.distinct_inputs,
            label=plan.kind,
        )

    def _operation(
        self, name: str, node: int, slot: int | None, source: int, *, reduction: bool, channels: Channels
    ) -> nn.Module:
        """Build a candidate of one edge; edges from a reduction cell's two inputs have stride 2."""
        drop_path = self.drop_path_prob if self.affine or self.drop_path_prob else None
        stride = 2 if reduction and source < INPUTS else 1
        affine = self.affine and not (self.pool_norms and name in POOLS)
        return make_operation(name, channels, stride, affine=affine, drop_path=drop_path)

    def _output(self, cell: Any, channels: Channels) -> Channels | Concat:
        """Return the channels of a cell's output when each of its nodes has `channels`."""
        if isinstance(cell, FrozenCell):
            return cell.num_outputs * channels
        count = self._design.num_nodes
        loose_end = isinstance(cell, Cell) and self._design.merge_op == "loose_end"
        if not loose_end and not isinstance(channels, Value):
            return count * channels
        return Concat(count, LooseEnds(cell.topology) if loose_end else AllNodes(count), channels)

    def converted_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a state dict of the original DARTS or of NNI under the names of this network."""
        return converted_cells(weights, self)

    @classmethod
    def arguments_of(cls, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the number of classes, width, number of cells, stem and kind of pools of a state dict."""
        return super().arguments_of(weights) | sizes_of(weights, STEM_MULTIPLIER)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Classify images, (B, channels, H, W).

        Returns:
            Logits, (B, num_classes); with `auxiliary_loss` in training mode the pair (logits, auxiliary
            logits).
        """
        before = self.stem0(images)
        last = self.stem1(before)
        auxiliary_logits = None
        cells = list(self.cells)
        for index, cell in enumerate(cells):
            before, last = last, cell([before, last])
            if self.training and self.auxiliary_head is not None and index == 2 * len(cells) // 3:
                auxiliary_logits = self.auxiliary_head(last)
        logits: Tensor = self.classifier(self.pool(last).flatten(1))
        return logits if auxiliary_logits is None else (logits, auxiliary_logits)

    def set_drop_path_prob(self, p: float) -> None:
        """Set the current rate of every `DropPath`; `drop_path_prob` keeps the constructor's value.

        Raises:
            SpaceError: p is outside 0 <= p < 1, or positive on a network built without drop path (a search
                network whose `drop_path_prob` was 0).
        """
        require_number("p", p, least=0, below=1)
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
        """Return the constructor's arguments; for a fixed network with the `affine` that it was built with.

        So `model_context(arch)` with these arguments builds the same modules again, also for a network that
        was frozen from a search network.
        """
        return super().arguments if self.decisions else {**super().arguments, "affine": self.affine}


class CellInputs(nn.Module):
    """Preprocessing of a cell's two inputs to its channels and size.

    The older input is reduced when the cell between was a reduction. (B, C_0, H_0, W_0), (B, C_1, H, W) ->
    two maps (B, C, H, W).
    """

    def __init__(
        self,
        older: Channels | Concat,
        newer: Channels | Concat,
        channels: Channels,
        after_reduction: bool,
        affine: bool,
    ) -> None:
        super().__init__()
        reduce_or_not = factorized_reduce if after_reduction else relu_conv_bn
        self.preprocess0 = reduce_or_not(older, channels, affine)
        self.preprocess1 = relu_conv_bn(newer, channels, affine)

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return both inputs as (B, C, H, W)."""
        older, newer = inputs
        return [self.preprocess0(older), self.preprocess1(newer)]


def plan_cells(data: Images, num_cells: int) -> list[CellPlan]:
    """Lay out the cells: reductions at floor(L / 3) and floor(2 L / 3), each doubling the channels."""
    before = last = Source("stem", 1)
    size = data.size // 8 if data.imagenet else data.size
    stage, place, multiple, after_reduction = 0, 0, 1, data.imagenet
    plans = []
    for index in range(num_cells):
        reduction = index in (num_cells // 3, 2 * num_cells // 3)
        if reduction:
            stage, place, multiple, size = stage + 1, 0, 2 * multiple, (size + 1) // 2
        plan = CellPlan(stage, place, (before, last), multiple, size, reduction, after_reduction)
        before, last, after_reduction, place = last, plan.output, reduction, place + 1
        plans.append(plan)
    return plans


def _ends(layouts: Mapping[int, Sequence[CellPlan]], auxiliary_loss: bool) -> tuple[CellPlan, CellPlan]:
    """Return the cells that classifier and auxiliary head read, which must be alike at every depth."""
    lasts = {n: plans[-1] for n, plans in layouts.items()}
    auxiliaries = {n: plans[2 * n // 3] for n, plans in layouts.items()}
    for ends in (lasts, auxiliaries) if auxiliary_loss else (lasts,):
        if len({(plan.output, plan.size) for plan in ends.values()}) > 1:
            raise SpaceError(
                f"num_cells={tuple(layouts)}: these depths end in different kinds of cells; "
                "choose among numbers of at least 4."
            )
    return next(iter(lasts.values())), next(iter(auxiliaries.values()))


def _stems(data: Images, width: Channels) -> tuple[nn.Module, nn.Module]:
    """Return two stems: images to the first cell's older input, and the older input to the newer."""
    if data.imagenet:
        return imagenet_stems(data.channels, width)
    return cifar_stem(data.channels, STEM_MULTIPLIER * width), nn.Identity()


def _auxiliary_head(channels: Channels | Concat, size: int, data: Images, affine: bool) -> nn.Module:
    if data.imagenet:
        return imagenet_auxiliary_head(channels, data.num_classes, affine)
    return cifar_auxiliary_head(channels, data.num_classes, size, affine)


def _resolve_design(
    design: CellDesign, operations: object, num_nodes: object, merge_op: object, distinct_inputs: object
) -> CellDesign:
    """Return the paper's design, with the arguments that were given in place of the paper's."""
    require_integer("num_nodes", num_nodes, least=1, optional=True)
    if design.edges and (num_nodes not in (None, design.num_nodes) or operations is not None):
        raise SpaceError(
            f"this space gives each edge of its {design.num_nodes} nodes candidates of its own; leave "
            "num_nodes and operations out."
        )
    given: dict[str, Any] = {
        "operations": None if operations is None else check_operations(operations),
        "num_nodes": num_nodes,
        "merge_op": merge_op,
        "distinct_inputs": distinct_inputs,
    }
    return replace(design, **{name: value for name, value in given.items() if value is not None})


def _number_or_choice(name: str, value: int | Sequence[int]) -> Any:
    """Return a number, or the choice among several; under `model_context` the number chosen."""
    if not isinstance(value, (list, tuple)):
        require_integer(name, value, least=1)
        return value
    if not value:
        raise SpaceError(f"{name}={value!r} must be an integer of at least 1, or a list of them.")
    for number in value:
        require_integer(name, number, least=1)
    return value_choice(value, label=name)


def _possible(number: int | Value) -> Iterator[int]:
    yield from number.possible() if isinstance(number, Value) else (number,)
