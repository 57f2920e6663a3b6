"""LayerChoice and InputChoice."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..errors import SpaceError, listed, require_integer, require_one_of
from .conditions import Condition, Is
from .context import FreezeContext, space_mode
from .decisions import Categorical, Decision, Subset
from .labels import branch_scope, make_label
from .misuse import is_torch_layer
from .primitive import Primitive, Relaxer, Undecided, is_frozen
from .values import Choice

T = TypeVar("T")

Candidate: TypeAlias = "nn.Module | Callable[[], nn.Module]"
Candidates: TypeAlias = Mapping[str, T] | Sequence[T]
Reduction = Literal["sum", "mean", "concat", "none"]


def made(candidate: Any, where: str, *arguments: Any) -> nn.Module:
    """Return a candidate module: itself, or what its factory builds.

    Raises:
        SpaceError: Neither a module nor a factory of one, or a factory that does not take `arguments`.
    """
    is_factory = callable(candidate) and not isinstance(candidate, nn.Module)
    module = called(candidate, where, *arguments) if is_factory else candidate
    if not isinstance(module, nn.Module):
        raise SpaceError(
            f"{where} is a {type(module).__name__}; expected an nn.Module or a function that returns one."
        )
    return module


def called(factory: Callable[..., Any], where: str, *arguments: Any) -> Any:
    """Return what a user's function makes.

    Raises:
        SpaceError: It does not take `arguments`.
    """
    try:
        return factory(*arguments)
    except TypeError:
        _check_factory(factory, where, arguments)
        raise


def _check_factory(factory: Callable[..., Any], where: str, arguments: tuple[Any, ...]) -> None:
    """Raise a `SpaceError` unless a factory can be called with these arguments."""
    try:
        parameters = inspect.signature(factory)
    except ValueError:  # of something built in
        return
    is_layer = isinstance(factory, type) and issubclass(factory, nn.Module)
    try:
        parameters.bind(*arguments)
        # A layer of torch would take the index of a block or an edge for one of its sizes.
        if not (is_layer and is_torch_layer(factory)):  # type: ignore[arg-type]
            return
    except TypeError:
        pass
    name, count = getattr(factory, "__name__", type(factory).__name__), len(arguments)
    instead = f"Pass {name}(...) or a function that returns it" if is_layer else "Write it with that many"
    raise SpaceError(
        f"{where} is {name}{parameters}, but a factory gets {count or 'no'} argument{'s' * (count != 1)} here"
        f"{': ' * bool(count)}{listed(arguments) if count else ''}. {instead}."
    )


def named_candidates(candidates: Any, where: str) -> dict[Any, Any]:
    """Return candidates by name; those of a list are named by their index."""
    if isinstance(candidates, Mapping):
        for name in candidates:
            if not isinstance(name, str):
                raise SpaceError(f"{where}: candidate names are strings; got {name!r}.")
        return dict(candidates)
    if isinstance(candidates, Sequence | nn.ModuleList) and not isinstance(candidates, str):
        return dict(enumerate(candidates))
    if isinstance(candidates, nn.ModuleDict):
        return dict(candidates.items())
    raise SpaceError(
        f"{where}: candidates are a dict or a list of modules; got a {type(candidates).__name__}."
    )


class LayerChoice(Primitive):
    """Choose one of several layers.

    Args:
        candidates: Modules, or zero-argument factories of them, by name or in a list (then named by index).
            A factory is called only when its candidate is needed.
        label: Name of the decision; numbered inside `ModelSpace.__init__` when missing. The same label at
            two places means one decision.
        prior: Weight of each candidate in random sampling.

    `forward` passes any arguments on. In a space it runs the first candidate; in `model_context` the
    constructor returns the chosen candidate itself. In a space `choice["conv"]` is a candidate, and
    `choice["conv"] = module` puts another in its place.
    """

    def __init__(
        self,
        candidates: Candidates[Candidate],
        *,
        label: str | None = None,
        prior: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        label = make_label("layer", label)
        named = named_candidates(candidates, label)
        self.decision = Categorical(label, list(named), prior)
        self.candidates = nn.ModuleList(self._make(label, name, c) for name, c in named.items())

    @staticmethod
    def _make(label: str, name: object, candidate: Any) -> nn.Module:
        with branch_scope(label, name):
            return made(candidate, f"{label!r}: candidate {name!r}")

    @classmethod
    def build(cls, context: FreezeContext | None, *args: Any, **kwargs: Any) -> nn.Module | None:
        if context is None:
            return None
        bound = inspect.signature(cls.__init__).bind(None, *args, **kwargs)
        label = make_label("layer", bound.arguments.get("label"))
        named = named_candidates(bound.arguments["candidates"], label)
        chosen = context.resolve(Choice(Categorical(label, list(named), bound.arguments.get("prior"))))
        if isinstance(chosen, Choice):
            return Undecided(context.problems(chosen.decisions()))
        return cls._make(label, chosen, named[chosen])

    @property
    def label(self) -> str:
        """Label of the decision."""
        return self.decision.label

    def __len__(self) -> int:
        return len(self.candidates)

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self.candidates)

    def __getitem__(self, name: str | int) -> nn.Module:
        """Return a candidate by its name, or by its index in a list."""
        return self.candidates[self.decision.position(name)]

    def __setitem__(self, name: str | int, candidate: Candidate) -> None:
        """Put another module in place of a candidate, before the space is used.

        Raises:
            SpaceError: There is no such candidate, the other is not a module, or one of them has choices.
        """
        module = self._make(self.label, name, candidate)
        if not is_frozen(module) or not is_frozen(self[name]):
            raise SpaceError(
                f"{self.label!r}: candidate {name!r} cannot be replaced, since it or the other has choices, "
                "which a space reads at its construction. Pass the other to LayerChoice."
            )
        self.candidates[self.decision.position(name)] = module

    def decisions(self) -> tuple[Decision, ...]:
        return (self.decision,)

    def branches(self) -> Iterable[tuple[Condition, str, nn.Module]]:
        return [
            (Is(Choice(self.decision), (name,)), f"candidates.{i}", module)
            for i, (name, module) in enumerate(zip(self.decision.candidates, self.candidates, strict=True))
        ]

    def shown(self) -> Iterable[tuple[str, nn.Module]]:
        named = zip(map(str, self.decision.candidates), self.candidates, strict=True)
        return [(name, module) for name, module in named if not is_frozen(module)]

    def freeze(self, arch: Mapping[str, Any]) -> nn.Module:
        return self.candidates[self.decision.position(arch[self.label])]

    def relax(self, builder: Relaxer) -> nn.Module:
        return builder.mixed(self)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.candidates[0](*args, **kwargs)


def reduce_inputs(inputs: Sequence[Tensor], reduction: Reduction) -> Any:
    """Join chosen inputs: their sum, mean, concatenation along dimension 1, or the list itself."""
    if reduction == "none":
        return list(inputs)
    if reduction == "concat":
        return torch.cat(list(inputs), dim=1)
    total = sum_in_order(inputs)
    return total / len(inputs) if reduction == "mean" else total


def sum_in_order(terms: Sequence[Any]) -> Any:
    """Sum left to right, so that equal terms give equal bits wherever they come from.

    Terms are tensors, or tuples and dicts of tensors, which are summed tensor by tensor.
    """
    total = terms[0]
    for term in terms[1:]:
        total = tree_map(_added, total, term) if isinstance(total, tuple | list | dict) else total + term
    return total


def _added(a: Any, b: Any) -> Any:
    return a + b if isinstance(a, Tensor) else a


def as_inputs(inputs: tuple[Any, ...], count: int, where: str) -> list[Tensor]:
    """Accept `f(a, b)` and `f([a, b])` alike; check the number.

    Raises:
        SpaceError: Another number of inputs than declared.
    """
    one_list = len(inputs) == 1 and isinstance(inputs[0], list | tuple)
    tensors = list(inputs[0]) if one_list else list(inputs)
    if len(tensors) != count:
        raise SpaceError(f"{where} takes {count} inputs; got {len(tensors)}.")
    return tensors


class ChosenInputs(nn.Module):
    """A frozen `InputChoice`: picks and joins some of its inputs.

    Args:
        n_candidates: Number of inputs given.
        chosen: Indices picked, increasing.
        reduction: Way of joining several; None passes the single chosen one on.
    """

    def __init__(self, n_candidates: int, chosen: Sequence[int], reduction: Reduction | None) -> None:
        super().__init__()
        self.n_candidates = n_candidates
        self.chosen = tuple(chosen)
        self.reduction = reduction

    def forward(self, *inputs: Any) -> Any:
        tensors = as_inputs(inputs, self.n_candidates, "an InputChoice")
        picked = [tensors[index] for index in self.chosen]
        return picked[0] if self.reduction is None else reduce_inputs(picked, self.reduction)

    def extra_repr(self) -> str:
        return f"{self.n_candidates}, chosen={self.chosen}, reduction={self.reduction!r}"


def chosen_inputs(decision: Decision, reduction: Reduction, arch: Mapping[str, Any]) -> ChosenInputs:
    """Return the module that picks the inputs `arch` chose."""
    position = decision.position(arch[decision.label])
    if isinstance(position, int):
        return ChosenInputs(len(decision.candidates), [position], None)
    return ChosenInputs(len(decision.candidates), position, reduction)


class InputChoice(Primitive):
    """Choose among several inputs.

    Args:
        n_candidates: Number of inputs.
        n_chosen: Number of chosen inputs; None means any non-empty set.
        reduction: Way of joining several chosen inputs: "sum", "mean", "concat" (dimension 1), or "none"
            for a list. With `n_chosen=1` the chosen input itself is returned.
        label: Name of the decision; numbered inside `ModelSpace.__init__` when missing.
        prior: See `Categorical` and `Subset`.

    `forward` takes the inputs as a list or as separate arguments; in a space it uses the first ones.
    """

    def __init__(
        self,
        n_candidates: int,
        n_chosen: int | None = 1,
        reduction: Reduction = "sum",
        *,
        label: str | None = None,
        prior: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        label = make_label("input", label)
        require_integer(f"{label!r}: n_candidates", n_candidates, least=1)
        require_one_of(f"{label!r}: reduction", reduction, get_args(Reduction))
        self.n_candidates = n_candidates
        self.n_chosen = n_chosen
        self.reduction: Reduction = reduction
        self.decision: Decision = (
            Categorical(label, range(n_candidates), prior)
            if n_chosen == 1
            else Subset(label, range(n_candidates), n_chosen, prior)
        )

    @property
    def label(self) -> str:
        """Label of the decision."""
        return self.decision.label

    def decisions(self) -> tuple[Decision, ...]:
        return (self.decision,)

    def extra_repr(self) -> str:
        joined = "" if self.n_chosen == 1 else f", reduction={self.reduction!r}"
        return super().extra_repr() + joined

    def freeze(self, arch: Mapping[str, Any]) -> nn.Module:
        return chosen_inputs(self.decision, self.reduction, arch)

    @classmethod
    def build(cls, context: FreezeContext | None, *args: Any, **kwargs: Any) -> nn.Module | None:
        if context is None:
            return None
        with space_mode():
            choice = cls(*args, **kwargs)
        chosen = context.resolve(Choice(choice.decision))
        if isinstance(chosen, Choice):
            return Undecided(context.problems(chosen.decisions()))
        return choice.freeze(context.arch)

    def relax(self, builder: Relaxer) -> nn.Module:
        return builder.mixed(self)

    def forward(self, *inputs: Any) -> Any:
        first = {self.label: next(iter(self.decision.values()))}
        return self.freeze(first)(*inputs)
