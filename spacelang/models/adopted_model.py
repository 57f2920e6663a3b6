"""Existing models as spaces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ..costs.counting import frozen_flops
from ..errors import SpaceError, listed
from ..graph.tensors import example_arguments
from ..language import Categorical, is_frozen
from ..language.base import decided
from ..language.context import current_context, space_mode
from ..space import ModelSpace
from .alternatives import Adopted
from .atoms import Atom
from .carving import Carved
from .couplings import Couplings, couplings_of
from .decoders import renumber_layers
from .importance import sort_by_importance
from .selectors import Depth, OneOf, Selected, Skip, Width, selected
from .units import carve
from .widths import ChosenWidth, sizes_from, target_of


class AdoptedModel(ModelSpace):
    """The space of an existing model; `searchable` makes it.

    What it freezes is the model itself: its own class, methods and names of weights.

    Args:
        model: The model with choices in it.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model if current_context() is None else decided(model)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs)

    def plain(self) -> nn.Module:
        renumber_layers(self.model)
        return self.model


def searchable(
    model: nn.Module, choices: Mapping[str, Skip | OneOf | Width | Depth], example_inputs: Any
) -> AdoptedModel:
    """Make a space of an existing model, which stays as it is; the space has a copy with its weights.

    What a width is tied to (norms that follow, the inputs of the next layer, sums) is found by running a copy
    of the model without data. Channels and heads are put in the order of their importance, the L1 norm of the
    weights that read them, so that a narrower layer keeps the most important ones; the whole network computes
    what it did.

    Args:
        model: Any module.
        choices: Choices by path; `*` stands for any part of one name.
        example_inputs: Tensor, or tuple of positional arguments of the forward pass.

    Returns:
        The space; `space.freeze(arch)` is of the model's own class and has plain weights.

    Raises:
        SpaceError: A path matches nothing, or what is there cannot be chosen so; says which, where and why.

    >>> from torch import zeros
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> space = searchable(net, {"0.out_features": Width([0.5, 1.0])}, zeros(1, 4))
    >>> space.freeze({"0.out_features": 4})
    Sequential(
      (0): Linear(in_features=4, out_features=4, bias=True)
      (1): ReLU()
      (2): Linear(in_features=4, out_features=2, bias=True)
    )
    """
    if not isinstance(model, nn.Module):
        raise SpaceError(f"searchable takes an nn.Module; got a {type(model).__name__}.")
    if not is_frozen(model):
        raise SpaceError(f"{type(model).__name__} has choices of its own; freeze it first, or extend it.")
    inputs = example_arguments(example_inputs)
    with space_mode():
        network = _with_choices(model, selected(model, choices), inputs)
    space = AdoptedModel(network)
    if current_context() is None:
        _check_smallest(space, inputs)
    return space


def _with_choices(model: nn.Module, chosen: Sequence[Selected], inputs: tuple[Any, ...]) -> nn.Module:
    """Return a copy of a model with choices in it."""
    adopted, couplings = Adopted(model), couplings_of(model, inputs, {})
    alternatives = [item for item in chosen if not isinstance(item.selector, Width)]
    if alternatives:
        adopted.put(alternatives, couplings.calls)
        couplings = couplings_of(adopted.network, inputs, adopted.joined())
    widths = _chosen_widths(adopted, chosen, couplings)
    sort_by_importance(adopted.network, widths, couplings)
    carve(adopted, widths, couplings)
    return adopted.network


def _chosen_widths(adopted: Adopted, chosen: Sequence[Selected], couplings: Couplings) -> list[ChosenWidth]:
    """Return the decisions on widths, of those that are tied to each other one.

    Raises:
        SpaceError: A width cannot be chosen, or those that are tied have different sizes.
    """
    known: dict[Atom, ChosenWidth] = {}
    for item in chosen:
        if not isinstance(item.selector, Width):
            continue
        try:
            path = adopted.path(item.path)
            target = target_of(adopted.modules[item.path], path, item.attribute, couplings)
            sizes = sizes_from(item.selector.sizes, target)
        except SpaceError as error:
            raise SpaceError(f"the width of {item.place!r} cannot be chosen: {error}.") from None
        same = known.setdefault(target.atom, ChosenWidth(Categorical(item.label, sizes), target))
        if list(same.decision.candidates) != sizes:
            raise SpaceError(
                f"{same.decision.label!r} and {item.label!r} are one width, since the network ties them, and "
                f"cannot be {list(same.decision.candidates)} here and {sizes} there. Choose one of them."
            )
    return list(known.values())


def _check_smallest(space: AdoptedModel, inputs: tuple[Any, ...]) -> None:
    """Run the model with the smallest widths.

    Raises:
        SpaceError: It does not run; names the decisions.
    """
    modules = [module for module in space.modules() if isinstance(module, Carved)]
    widths = {d.label: d for module in modules for d in module.decisions()}
    whole = {d.label: next(iter(d.values())) for d in space.decisions}
    whole |= {label: max(d.values()) for label, d in widths.items()}
    smallest = {label: min(d.values()) for label, d in widths.items()}
    run = frozen_flops(space, inputs)

    def problem(sizes: Mapping[str, Any]) -> str:
        try:
            run({**whole, **sizes})
        except SpaceError as error:
            return str(error)
        return ""

    if smallest and (error := problem(smallest)):
        alone = {label: problem({label: size}) for label, size in smallest.items()}
        guilty = [f"{label!r}: {text}" for label, text in alone.items() if text] or [error]
        raise SpaceError(f"the model does not run with smaller widths: {listed(guilty, 4)}")
