"""Copies of spaces to run, whose choices call back."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from functools import cached_property, partial
from itertools import accumulate, chain
from typing import Any, TypeAlias, TypeGuard

from torch import Tensor, nn

from ..language import Cell, Condition, LayerChoice, Primitive, Repeat, Space
from ..language.context import copy_with
from ..language.primitive import own_attributes, walk
from ..language.values import decisions_of, evaluate
from ..nn import ValueLayer
from .choice_regions import base_name, held_region
from .flop_mode import Unknown, blank, form, structure
from .reading import own_modules
from .regions import Cost, Region
from .tensors import without_data

Stand: TypeAlias = Callable[..., Any]
"""Action of a choice in a run; it gets the choice, its path and the arguments of the call."""


class Later(nn.Module):
    """A module in a copy without data that is itself copied when it has to run.

    Args:
        original: Module of the space.
    """

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self._original = (original,)  # not as a submodule: the space is left as it is

    @property
    def original(self) -> Any:
        """The module of the space."""
        return self._original[0]

    @cached_property
    def structure(self) -> Hashable | None:
        """Key of all modules that do the same, or None where one cannot tell."""
        try:
            return structure(self.original)
        except Unknown:
            return None

    def key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable | None:
        """Return what a call with these arguments follows from, or None where one cannot tell."""
        try:
            return None if self.structure is None else (self.structure, form(args), form(kwargs))
        except Unknown:
            return None

    def copied(self) -> nn.Module:
        """Return the copy."""
        copied: nn.Module = copy.deepcopy(self.original, _emptied(self.original.modules())).eval()
        return copied

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.copied()(*args, **kwargs)


class LaterLayer(Later):
    """A layer with chosen arguments that is made when it has to run.

    Args:
        layer: Choice of the space.
        twin: Its copy, whose largest layer is one that is copied later.
        arch: Values for all labels.
    """

    def __init__(self, layer: ValueLayer, twin: ValueLayer, arch: Mapping[str, Any]) -> None:
        super().__init__(layer)
        self._twin, self._arch = (twin,), arch

    @cached_property
    def structure(self) -> Hashable | None:
        layer = self.original
        try:
            arguments = form(evaluate(dict(layer.spec.arguments), self._arch))
        except Unknown:
            return None
        weights = chain(layer.largest.parameters(), layer.largest.buffers())
        return (type(layer), layer.spec.layer_type, arguments, *map(blank, weights))

    def copied(self) -> nn.Module:
        twin = self._twin[0]
        if isinstance(twin.largest, Later):
            twin.largest = twin.largest.copied()
        return twin.freeze(self._arch)


def later_layer(choice: Primitive, twin: Any, arch: Mapping[str, Any]) -> LaterLayer | None:
    """Return a choice's layer under an architecture; None where it is not just a layer of other arguments."""
    return LaterLayer(choice, twin, arch) if _is_layer(choice) else None


def _is_layer(choice: Primitive) -> TypeGuard[ValueLayer]:
    return isinstance(choice, ValueLayer) and type(choice).freeze is ValueLayer.freeze


class Twin:
    """A copy of a space in evaluation mode, for one run after another as different architectures.

    Args:
        space: left untouched.
        has_data: Whether the copy has weights; otherwise it is on the meta device.

    Attributes:
        network: The copy.
        choices: The space's own choices, by path.
        conditions: Conditions of the space's modules, by path.
        names: How many regions wish each name.
    """

    def __init__(self, space: Space, *, has_data: bool) -> None:
        self.choices = {path: m for path, m in space.named_modules() if isinstance(m, Primitive)}
        self._held = {path: held for path, m in space.named_modules() if (held := _held(m))}
        self.conditions: dict[str, Condition] = {}
        self._holders: list[tuple[Condition, str, nn.Module]] = []
        for condition, path, module in walk(space):
            self.conditions[path] = condition
            if not isinstance(module, Primitive) and held_region(module, path) is not None:
                self._holders.append((condition, path, module))
        self._own = list(own_modules(space))
        self.names = Counter(base_name(choice, path) for path, choice in self.choices.items())
        self.names.update(region.base for _, _, region in self.held_regions())
        later = {} if has_data else {id(module): Later(module) for module in self._closed(space)}
        memo: dict[int, Any] = dict(later)
        if not has_data:
            memo |= _emptied(_outside(space, later))
        with copy_with(lambda item: item):  # values stay open: each run has its own
            self.network = copy.deepcopy(space, memo).eval()

    def prepare(self, arch: Mapping[str, Any], call: Stand) -> nn.Module:
        """Return the network as an architecture has it, whose choices call `call`."""
        for path, held in self._held.items():
            vars(self.network.get_submodule(path)).update(evaluate(held, arch))
        for path, choice in self.choices.items():
            # In the instance's dict it is found before the forward of the class.
            vars(self.network.get_submodule(path))["forward"] = partial(call, choice, path)
        return self.network

    def fixed(self) -> Cost:
        """Return the parameters outside every choice."""
        cost = Cost(flops=0)
        for module in self._own:
            cost.add_parameters(module)
        return cost

    def held_regions(self) -> Iterator[tuple[Condition, str, Region]]:
        """Yield new regions of the values that plain modules keep as attributes."""
        for condition, path, module in self._holders:
            region = held_region(module, path)
            assert region is not None
            yield condition, path, region

    def _closed(self, space: Space) -> Iterator[nn.Module]:
        """Yield candidates, blocks and layers without choices in them, of the kinds that are run alone."""
        every = space.named_modules(remove_duplicate=False)
        paths = (path for path, module in every if isinstance(module, Primitive) or path in self._held)
        is_open = set(chain.from_iterable(accumulate(path.split("."), "{}.{}".format) for path in paths))
        for path, choice in self.choices.items():
            if isinstance(choice, Cell | LayerChoice | Repeat) or _is_layer(choice):
                for _, branch, child in choice.branches():
                    if f"{path}.{branch}" not in is_open and branch != "frame":
                        yield child


def _held(module: nn.Module) -> dict[str, Any]:
    """Return attributes that are, or contain, value choices of which a run needs the value.

    A choice reads its public expressions itself, under the architecture that it is asked for.
    """
    is_read = not isinstance(module, Primitive)
    attributes = own_attributes(module)
    attributes.pop("_call", None)  # arguments a space was made with
    names = [name for name in attributes if is_read or name.startswith("_")]
    return {name: attributes[name] for name in names if decisions_of(attributes[name])}


def _outside(module: nn.Module, later: Mapping[int, nn.Module]) -> Iterator[nn.Module]:
    """Yield every module that is reached without passing one of `later`."""
    seen, waiting = set[int](), [module]
    while waiting:
        module = waiting.pop()
        if id(module) not in seen and id(module) not in later:
            seen.add(id(module))
            yield module
            waiting += module.children()


def _emptied(modules: Iterable[nn.Module]) -> dict[int, Tensor]:
    """Return tensors without data for the weights and buffers that modules themselves hold, by identity."""
    held = chain.from_iterable((*m._parameters.values(), *m._buffers.values()) for m in modules)
    return {id(tensor): without_data(tensor) for tensor in held if tensor is not None}
