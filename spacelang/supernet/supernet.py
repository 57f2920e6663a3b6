"""Supernet: a space with every candidate alive, computing with mixtures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import SpaceError, closest, quoted
from ..graph import space_graph
from ..language import (
    Architecture,
    Cell,
    CellTopology,
    Decision,
    InputChoice,
    LayerChoice,
    Primitive,
    Repeat,
    Space,
    is_frozen,
)
from ..language.base import built_as, is_reserved, slot_order, without_decisions
from ..language.primitive import copied, frozen_copy
from ..nn import ValueLayer
from .elastic import ElasticLayer
from .elastic_refusal import Produced
from .execution import Execution, ExecutionName, Resolved
from .graph_weights import weighted_copy
from .group import Group, Transform
from .mixed import Mixed, MixedDepth, MixedInput, MixedLayer
from .mixed_cell import MixedCell
from .plan import CellPlan
from .recompute import Recompute
from .replay import Call, CudaGraphs, Replay
from .steps import all_hooks

if TYPE_CHECKING:
    import networkx as nx


class Builder:
    """The argument of a primitive's `relax`: groups by label, and the relaxed forms of built-in choices."""

    def __init__(self) -> None:
        self.groups: dict[str, Group] = {}
        self._produced = Produced()

    def group(self, decision: Decision) -> Group:
        """Return the table of a decision: one row, one column per candidate."""
        return self._shared(Group(decision.label, ("",), decision.candidates, (decision,)))

    def cell_group(self, topology: CellTopology) -> Group:
        """Return the table of a cell label: one row per edge, one column per operation."""
        rows = tuple(f"{source}->{node}" for source, node in topology.edges)
        group = Group(topology.label, rows, topology.operations, topology.decisions(), topology)
        return self._shared(group)

    def _shared(self, group: Group) -> Group:
        known = self.groups.setdefault(group.label, group)
        if known.decisions != group.decisions:
            raise SpaceError(f"label {group.label!r} names a cell and another choice; rename one of them.")
        if known.topology != group.topology:
            raise SpaceError(
                f"label {group.label!r} names two cells with other candidates on an edge; rename one of them."
            )
        return known

    def mixed(self, primitive: Primitive) -> nn.Module:
        """Relax a built-in primitive."""
        if isinstance(primitive, LayerChoice):
            return self.mixed_layer(primitive)
        if isinstance(primitive, InputChoice):
            return self.mixed_input(primitive)
        if isinstance(primitive, Repeat):
            return self.mixed_depth(primitive)
        if isinstance(primitive, Cell):
            return self.mixed_cell(primitive)
        if isinstance(primitive, ValueLayer):
            return self.elastic_layer(primitive)
        raise SpaceError(
            f"{type(primitive).__name__} is not a built-in primitive: it must implement relax(builder)."
        )

    def mixed_layer(self, choice: LayerChoice) -> nn.Module:
        """Relax a `LayerChoice`."""
        return MixedLayer(self.group(choice.decision), choice.candidates)

    def mixed_input(self, choice: InputChoice) -> nn.Module:
        """Relax an `InputChoice`."""
        return MixedInput(self.group(choice.decision), choice.n_chosen, choice.reduction)

    def mixed_depth(self, repeat: Repeat) -> nn.Module:
        """Relax a `Repeat`."""
        return MixedDepth([self.group(d) for d in repeat.decisions()], repeat.depth, repeat.blocks)

    def mixed_cell(self, cell: Cell) -> nn.Module:
        """Relax a `Cell`."""
        return MixedCell(self.cell_group(cell.topology), cell.frame, cell.edges)

    def elastic_layer(self, layer: ValueLayer) -> nn.Module:
        """Relax a layer of `spacelang.nn` whose arguments are chosen."""
        return ElasticLayer([self.group(d) for d in layer.decisions()], layer, self._produced)


class Supernet(nn.Module):
    """A network in which every candidate of a space is alive.

    It computes with a mixture (`set_mixture`) or one architecture (`select`); a candidate without weight
    is not executed. It knows no algorithm: logits and how they become mixtures belong to a strategy. The
    space is copied, never changed, and parameters of the supernet are the network's weights alone.

    Args:
        space: The space; its present weights are the supernet's first ones.
        memory_format: Layout of 4-dimensional weights; channels_last makes convolutions faster on CPUs
            and GPUs alike. None leaves them, and so does a network that PyTorch cannot train in that layout
            on this CPU (1x1 convolutions with a stride on 2 to 7 channels, without AVX-512).
        builder: Maker of the relaxed forms of choices; a strategy that computes with other ones has its own.
        execution: How cells are computed: "plain", "torch", "native" or "auto"; see `Execution`.
        checkpoint: Whether cells are computed again in the backward pass; see `set_checkpoint`.

    Attributes:
        groups: The tables mixtures are set on, by label in sorted order.
        replay: Replays steps on a GPU; None to launch each of their kernels.
    """

    def __init__(
        self,
        space: Space,
        *,
        memory_format: torch.memory_format | None = torch.channels_last,
        builder: Builder | None = None,
        execution: ExecutionName = "auto",
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        _check_space(space)
        self._build(space, builder or Builder())
        self._layout = torch.contiguous_format
        if memory_format is not None and not (memory_format == torch.channels_last and _corrupts(self)):
            self._layout = memory_format
            self.to(memory_format=memory_format)
        self.execute(execution)
        self.set_checkpoint(checkpoint)

    def _build(self, space: Space, builder: Builder) -> None:
        def relax(item: Any) -> Any:
            return item.relax(builder) if isinstance(item, Primitive) else item

        self.network = without_decisions(copied(space, relax))
        self.groups = {label: builder.groups[label] for label in sorted(builder.groups)}
        self.decision_space = space.decision_space
        self._space_graph: nx.MultiDiGraph | None = None
        self._space = [space]  # in a list: a submodule would enter state_dict

    def execute(self, name: ExecutionName) -> None:
        """Compute with another execution from now on.

        Args:
            name: See `Execution`.

        Raises:
            SpaceError: The name is unknown, or "native" is not possible here.
        """
        self.execution = Execution(name)
        self._set(Resolved("plain" if name == "plain" else "torch", self._layout))
        self._hooks = [table for _, cell in self._cells() for table in all_hooks(cell.edges)]
        self._hook_count = sum(map(len, self._hooks))
        self._plans = self._compiled()  # now that edges share modules
        self._set_replay()
        bundles = any(planned.blocks for plan in self._plans for planned in plan.candidates)
        self._ready = not bundles or name in ("plain", "torch")

    def set_checkpoint(self, checkpoint: bool) -> None:
        """Trade time for memory from now on: keep the inputs of cells alone for the backward pass.

        What a cell needs there is computed again, with the same mixture and random draws. So outputs,
        gradients and running statistics stay the same bit for bit. The last of several cells is not computed
        again: the backward pass begins with it, while all that it needs is still there. Nor are cells under
        `torch.compile`, which decides by itself what to keep, and in forward-mode derivatives.

        Args:
            checkpoint: Whether to do so.

        Raises:
            SpaceError: The space has no cell.
        """
        cells = [cell for _, cell in self._cells()]
        if checkpoint and not cells:
            raise SpaceError(
                f"checkpoint=True computes cells again, and {type(self._space[0]).__name__} has none; "
                "leave it out."
            )
        for cell in cells:
            cell.recompute = None
        for cell in (cells[:-1] or cells) if checkpoint else ():
            cell.recompute = Recompute(tuple(self.groups.values()))
        self._set_replay()

    def _set_replay(self) -> None:
        """Let a GPU replay steps, unless their computation is not that of the network's modules alone."""
        own = type(self).forward_network is Supernet.forward_network
        fast = self.execution.name in ("auto", "native") and torch.cuda.is_available()
        again = any(cell.recompute is not None for _, cell in self._cells())
        self.replay = Replay(CudaGraphs) if fast and own and not again else None

    def resolved_execution(self) -> ExecutionName:
        """Return the execution, "auto" replaced by what it stands for here and with this plan."""
        if not self._ready:
            self._set(self.execution.resolved(self._layout))
            self._ready = True
        return self._resolved.name

    def _see_hooks(self) -> None:
        """Plan again if hooks were registered on candidates, or removed, since it was done."""
        if sum(map(len, self._hooks)) != self._hook_count:
            self.execute(self.execution.name)

    def _set(self, execution: Resolved) -> None:
        self._resolved = execution
        for _, cell in self._cells():
            cell.execute(execution)

    def _cells(self) -> Iterator[tuple[str, MixedCell]]:
        for path, child in self.network.named_modules():
            if isinstance(child, MixedCell):
                yield path, child

    def _compiled(self) -> list[CellPlan]:
        """Compile the plans of all cells from the graph, and return them."""
        cells = list(self._cells())
        if not cells:
            return []
        graph = self.graph
        return [cell.make_plan(path, graph) for path, cell in cells]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.compiler.is_compiling():
            self._see_hooks()
            self.resolved_execution()  # the first step may compile kernels
            if self.replay is not None:
                call = Call(self.forward_network, args, kwargs)
                return self.replay(self.network, list(self.groups.values()), call)
        return self.forward_network(*args, **kwargs)

    def forward_network(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the network computes; a subclass may let it compute with other weights."""
        return self.network(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if (
                name == "network" or is_reserved(type(self._space[0]), name) or hasattr(nn.Module, name)
            ):  # decisions are the space's, not the network's
                raise
            # What a user's module asks of its model (set_drop_path_prob, ...) reaches the space's class.
            return getattr(self.network, name)

    # -- computing -----------------------------------------------------------------------------------

    def set_mixture(
        self,
        mixture: Mapping[str, Tensor],
        active: Mapping[str, Sequence[Sequence[bool]]] | None = None,
        *,
        edges: Mapping[str, Tensor] | None = None,
        adds_gates: bool = False,
        silent: Mapping[str, Sequence[Sequence[bool]]] | None = None,
    ) -> None:
        """Compute with these weights from now on.

        Args:
            mixture: Weights by group label, (rows, columns); groups left out keep theirs.
            active: Candidates to execute, rows x columns by group label; all by default. Whether
                a weight is zero is said here, on the host, so that no device has to be asked.
            edges: Weights of a cell's edges, (rows,) by its label, apart from those of their candidates.
            adds_gates: Add the weights of candidates that are not executed, as plain numbers, to the sum
                of those that are.
            silent: Candidates executed though their weight is zero, rows x columns by group label,
                for the gradient of that weight alone: Nothing of their own is kept for the backward pass.

        Raises:
            SpaceError: An unknown label, or a shape that does not fit.
        """
        given, by_row, unheard = active or {}, edges or {}, silent or {}
        for label in (*mixture, *given, *by_row, *unheard):
            self._group(label).check_mixture(
                mixture.get(label), given.get(label), by_row.get(label), unheard.get(label)
            )
        for label, weights in mixture.items():
            self.groups[label].mix(
                weights,
                given.get(label),
                edges=by_row.get(label),
                adds_gates=adds_gates,
                silent=unheard.get(label),
            )

    def select(self, arch: Mapping[str, Any], *, exact: bool = True) -> None:
        """Compute as one architecture: only its path runs, bit for bit as its frozen model does.

        Args:
            arch: Architecture.
            exact: Whether it must be bit for bit. Otherwise the kernels of the execution compute the path:
                the same numbers up to rounding, faster.

        Raises:
            SpaceError: `arch` is invalid or needs a pruned candidate.
        """
        canonical = self._alive(arch)
        for group in self.groups.values():
            group.select(canonical, exact=exact)

    @contextmanager
    def mixture_kept(self) -> Iterator[None]:
        """Leave the mixture, or the selected architecture, as it was; inside, nothing may be pruned."""
        before = [(group, group.computing()) for group in self.groups.values()]
        try:
            yield
        finally:
            for group, state in before:
                vars(group).update(state)

    def set_transform(
        self, transform: Transform | None, of: tuple[type[nn.Module], ...] = (nn.Module,)
    ) -> None:
        """Apply `transform(candidate, output)` to the outputs of candidates of layer choices and cells.

        Dropout between candidates and their mixture is one. It is the caller's to do nothing in evaluation
        mode. Candidates whose outputs are transformed do not run in bundles.

        Args:
            transform: Function of a candidate and its output; None for nothing.
            of: Classes of the candidates that it changes; all by default.
        """
        for group in self.groups.values():
            group.transform, group.transforms = transform, of

    def _alive(self, arch: Mapping[str, Any]) -> Architecture:
        canonical = self.decision_space.canonical(arch)
        for group in self.groups.values():
            group.check_alive(canonical)
        return canonical

    def prune(self, alive: Mapping[str, Sequence[Sequence[bool]]]) -> None:
        """Remove candidates for good, from the graph and from the computation; their weights are freed.

        Args:
            alive: Rows x columns by group label, False for candidates to remove. Pruned ones stay pruned.
        """
        for label, rows in alive.items():
            self._group(label).check_prunable(rows)
        for label, rows in alive.items():
            group = self.groups[label]
            group.alive = [
                [a and bool(b) for a, b in zip(old, new, strict=True)]
                for old, new in zip(group.alive, rows, strict=True)
            ]
            group.active = tuple(
                tuple(k for k in row if group.alive[r][k]) for r, row in enumerate(group.active)
            )
        for child in self.network.modules():
            if isinstance(child, Mixed):
                child.drop_pruned()
        self._plans = self._compiled()

    def _group(self, label: str) -> Group:
        if label not in self.groups:
            raise SpaceError(
                f"this supernet has no group {label!r}; its groups are {quoted(self.groups)}."
                + closest(label, self.groups)
            )
        return self.groups[label]

    def soft_refusals(self) -> list[str]:
        """Return the choices that cannot compute a mixture of several candidates, one sentence each."""
        return [
            f"{child.soft_refusal} (at {path.removeprefix('network.')})"
            for path, child in self.named_modules()
            if isinstance(child, Mixed) and child.soft_refusal
        ]

    @property
    def plan(self) -> str:
        """How each candidate of each cell is computed, and why some run apart; to be printed."""
        name, pools = self.resolved_execution(), self._resolved.pools
        return "\n".join([f"execution: {name}", *(plan.text(pools) for plan in self._plans)])

    # -- results -------------------------------------------------------------------------------------

    @property
    def graph(self) -> nx.MultiDiGraph:
        """The space's graph without pruned edges, each edge with the `weight` of the present mixture."""
        if self._space_graph is None:
            self._space_graph = space_graph(self._space[0])
        return weighted_copy(self._space_graph, self.groups)

    def freeze(self, arch: Mapping[str, Any]) -> nn.Module:
        """Return an independent plain model of an architecture with this supernet's weights.

        Raises:
            SpaceError: With every problem of `arch`, or it needs a pruned candidate.
        """
        chosen = self._alive(arch) | slot_order(self.decision_space, arch)
        return built_as(without_decisions(frozen_copy(self.network, chosen)).plain(), chosen)


def edge_by_edge(space: Space) -> Supernet:
    """Return a supernet that computes every operation on every edge by itself, to compare with."""
    return Supernet(space, memory_format=None, execution="plain")


@contextmanager
def stepwise(module: nn.Module) -> Iterator[None]:
    """Compute supernets inside a module without CUDA graphs, which have no second derivatives."""
    supernets = [child for child in module.modules() if isinstance(child, Supernet)]
    before = [supernet.replay for supernet in supernets]
    try:
        for supernet in supernets:
            supernet.replay = None
        yield
    finally:
        for supernet, replay in zip(supernets, before, strict=True):
            supernet.replay = replay


def _check_space(space: object) -> None:
    if not isinstance(space, Space):
        raise SpaceError(f"Supernet takes a ModelSpace; got a {type(space).__name__}.")
    if is_frozen(space):
        raise SpaceError(
            f"{type(space).__name__} has nothing to choose: it was built inside model_context or frozen."
        )


def _corrupts(network: nn.Module) -> bool:
    """Return whether training in channels_last would corrupt memory on this CPU.

    Seen with torch 2.15.0 (oneDNN 3.13.3) on AVX2: the input gradient of a strided 1x1 convolution on 2 to 7
    channels writes beyond its buffer, so the process aborts somewhat later.
    """
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        return False
    return any(
        isinstance(child, nn.Conv2d)
        and child.kernel_size == (1, 1)
        and max(child.stride) > 1
        and 1 < child.in_channels // child.groups < 8
        for child in network.modules()
    )
