"""Counting the operations of a network while it runs, and remembering what equal ones give."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from types import BuiltinFunctionType, FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..language.primitive import Replaceable
from .shapes import output_of

META = torch.device("meta")
PLAIN = (
    *(int, float, complex, bool, str, bytes, type(None), type, FunctionType, BuiltinFunctionType),
    *(torch.dtype, torch.memory_format, torch.layout, torch.device),
)
_LISTS = (list, tuple, torch.Size)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_OF_EVERY_MODULE = frozenset(vars(nn.Module())) - {"training"}


class Unknown(Exception):
    """Something is too peculiar to be remembered."""


class Blank(NamedTuple):
    """A tensor without data.

    Attributes:
        shape: Sizes.
        stride: Strides.
        dtype: Type of its elements.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def tensor(self) -> Tensor:
        """Return such a tensor."""
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=META)


def blank(tensor: Tensor) -> Blank:
    """Return the form of a tensor."""
    return Blank(tuple(tensor.shape), tensor.stride(), tensor.dtype)


@dataclass(frozen=True, eq=False)
class Known:
    """Results on tensors without data, which follow from the forms of what was given.

    Attributes:
        operations: Outputs and FLOPs of torch's operations.
        modules: How modules ran, and their FLOPs.
    """

    operations: dict[Hashable, tuple[Any, int]] = field(default_factory=dict)
    modules: dict[Hashable, tuple[Any, int]] = field(default_factory=dict)


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts floating-point operations of convolutions, matrix products and attention while it is active.

    On tensors without data each operation is asked of torch once, which often answers slowly, in Python. One
    that returns a view or works in place is always asked.

    Args:
        known: Results found before; new ones are added.

    Attributes:
        total: FLOPs so far.

    Source: torch.utils.flop_counter.
    """

    supports_higher_order_operators = True

    def __init__(self, known: Known) -> None:
        from torch.utils.flop_counter import flop_registry  # late: it loads Triton, 0.15 s

        super().__init__()  # type: ignore[no-untyped-call]
        self.known = known
        self.total = 0
        self._formulas: dict[Any, Callable[..., Any]] = flop_registry

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise torch loads its compiler at the first operation, 1.3 s

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunction():  # the user's call has passed such modes already
            return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation, or look up its result."""
        if isinstance(func, torch._ops.HigherOrderOperator):
            return self._run_higher_order(func, args, kwargs)
        key = _key(func, args, kwargs)
        if key is not None and key in self.known.operations:
            outputs, flops = self.known.operations[key]
            self.total += flops
            return thawed(outputs)
        formula = self._formulas.get(func._overloadpacket)
        result = output_of(func, args, kwargs) if key is not None or _shares_memory(func) else None
        if result is None and formula is None:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        if result is None:
            result = func(*args, **kwargs)
        flops = int(formula(*args, **kwargs, out_val=result)) if formula is not None else 0
        self.total += flops
        if key is not None:
            with suppress(Unknown):
                self.known.operations[key] = form(result), flops
        return result

    def _run_higher_order(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            result = func(*args, **kwargs)
        self.total += int(counter.get_total_flops())
        return result


def _key(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable | None:
    """Return what determines the result of an operation, or None where that is more than forms."""
    if _shares_memory(func):
        return None
    try:
        return func, form(args), form(kwargs)
    except Unknown:
        return None


@cache
def _shares_memory(func: Any) -> bool:
    """Return whether the output of an operation may be its input, or a view of it."""
    return func._schema.is_mutable or any(value.alias_info is not None for value in func._schema.returns)


def form(value: Any) -> Hashable:
    """Return a value with its tensors as `Blank`; equal forms are treated alike by torch.

    Raises:
        Unknown: a tensor has data, or something is neither a tensor nor plain.
    """
    if isinstance(value, Tensor):
        if value.device != META or value.layout is not torch.strided:
            raise Unknown
        return blank(value)
    if isinstance(value, PLAIN):
        return type(value), value  # 1, 1.0 and True are equal
    if type(value) in _LISTS:
        return type(value), *map(form, value)
    if type(value) is dict:
        return dict, *((name, form(item)) for name, item in value.items())
    raise Unknown


def thawed(value: Any) -> Any:
    """Return a value of a form."""
    if isinstance(value, Blank):
        return value.tensor()
    kind, *items = value
    if kind is dict:
        return {name: thawed(item) for name, item in items}
    return kind(map(thawed, items)) if kind in _LISTS else items[0]


def structure(module: nn.Module) -> Hashable:
    """Return a key that modules share which do the same with inputs of one form, if weights have no values.

    Raises:
        Unknown: there are choices in it, hooks, or attributes that are not plain.
    """
    return tuple((name, *_own(child)) for name, child in module.named_modules(remove_duplicate=False))


def _own(module: nn.Module) -> tuple[Any, ...]:
    attributes = vars(module)
    if isinstance(module, Replaceable) or any(attributes[name] for name in _HOOKS):
        raise Unknown
    weights = chain(module._parameters.items(), module._buffers.items())
    return (
        type(module),
        tuple((name, None if tensor is None else blank(tensor)) for name, tensor in weights),
        tuple((name, form(value)) for name, value in attributes.items() if name not in _OF_EVERY_MODULE),
    )
