"""CUDA graphs: the kernels of a step are recorded once and launched together from then on."""

from __future__ import annotations

import warnings
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..errors import SpaceError
from .group import Group
from .steps import hooks

Compute: TypeAlias = Callable[..., Any]
"""The computation of a network."""

_RECENT = 8  # calls among which the same one must come twice to be recorded
_MOST = 8  # calls recorded: each keeps its inputs, outputs and gradients on the GPU
# What these compute is in their parameters and buffers; one does not change their settings while training.
_FIXED = (
    nn.Conv2d,
    nn.Linear,
    nn.ReLU,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.Identity,
    nn.Sequential,
    nn.ModuleList,
)
_PLAIN = (bool, int, float, str, type(None))


class Recorder(Protocol):
    """A way to record computations."""

    def fits(self, tensors: Sequence[Tensor]) -> bool:
        """Return whether computations on the device of these tensors can be recorded now."""

    def record(self, compute: Compute, tensors: Sequence[Tensor]) -> Compute:
        """Return a function that does what `compute` does with these tensors, by a recording.

        It takes others of their sizes, and copies them to where these are unless they are there. Its results,
        and the gradients that it returns, lie in memory that the next call overwrites. The device's generator
        of random numbers, and buffers of the network, may be changed.
        """


class CudaGraphs:
    """CUDA graphs of a forward and its backward pass; all share the memory of what is computed in between."""

    def __init__(self) -> None:
        self._pool: Any = None

    def fits(self, tensors: Sequence[Tensor]) -> bool:
        """See `Recorder`."""
        on_gpu = bool(tensors) and all(tensor.is_cuda for tensor in tensors)
        return on_gpu and not torch.cuda.is_current_stream_capturing()

    def record(self, compute: Compute, tensors: Sequence[Tensor]) -> Compute:
        """See `Recorder`."""
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        settings = {"dtype": torch.get_autocast_dtype("cuda"), "enabled": torch.is_autocast_enabled("cuda")}
        with torch.autocast("cuda", **settings, cache_enabled=False):  # type: ignore[arg-type]
            return torch.cuda.make_graphed_callables(
                compute, tuple(tensors), allow_unused_input=True, pool=self._pool
            )


class Replay:
    """The computation of a network, recorded when the same call comes a second time.

    Calls are the same if sizes and types, active candidates, and the tensors that have gradients are. Then
    only numbers in inputs, mixture, parameters and buffers differ, and a recording reads these in place.
    When the network itself differs (modules pruned, another rate of dropout), its recordings are dropped.
    Everything else is computed step by step: calls without gradients, outputs that are transformed, modules
    with hooks, and a forward pass while the backward pass of the one before may still come.

    Args:
        make_recorder: Makes what records.
    """

    def __init__(self, make_recorder: Callable[[], Recorder]) -> None:
        self._make_recorder = make_recorder
        self._recorder = make_recorder()
        self._network: _Network | None = None
        self._recent: deque[Hashable] = deque(maxlen=_RECENT)
        self._recorded: dict[Hashable, Compute] = {}
        self._last: weakref.ref[_Pass] | None = None
        self._failed = False

    def __reduce__(self) -> Any:  # a copy records anew: what is recorded belongs to one network
        return Replay, (self._make_recorder,)

    def __call__(self, network: nn.Module, groups: Sequence[Group], call: Call) -> Any:
        """Return the result of a call of a network that computes with the mixtures of these groups."""
        if self._failed or not torch.is_grad_enabled() or not self._recorder.fits(call.inputs):
            return call.compute()
        last = None if self._last is None else self._last()
        if (last is not None and not last.ended) or any(group.transform is not None for group in groups):
            return call.compute()
        self._see(network)
        assert self._network is not None
        if any(self._network.hooks):
            return call.compute()
        given, weights = [*call.inputs, *_mixture(groups)], self._network.weights()
        key = call.form, _form(given, groups), tuple(map(id, weights))
        if key not in self._recorded:
            if key not in self._recent or len(self._recorded) == _MOST:
                self._recent.append(key)
                return call.compute()
            recorded = self._record(call, given, weights, groups)
            if recorded is None:
                return call.compute()
            self._recorded[key] = recorded
        present = _Pass()
        self._last = weakref.ref(present)
        results, structure = tree_flatten(self._recorded[key](*_Owned.apply(*given, *weights)))
        return tree_unflatten(list(_Returned.apply(present, *results)), structure)

    def _see(self, network: nn.Module) -> None:
        """Drop all recordings if the network differs from the one that was recorded."""
        if self._network is None or not self._network.is_same():
            self._network = _Network(network)
            self._recorder = self._make_recorder()
            self._recorded.clear()
            self._recent.clear()

    def _record(
        self, call: Call, given: Sequence[Tensor], weights: Sequence[Tensor], groups: Sequence[Group]
    ) -> Compute | None:
        """Return a recording; None, with a warning, where the network cannot be recorded."""

        def step(*tensors: Tensor) -> Any:
            values = iter(tensors)
            inputs = [next(values) for _ in call.inputs]
            with _mixing(groups, values):
                return call.compute(inputs)

        assert self._network is not None
        places = [t.detach().clone().requires_grad_(t.requires_grad) for t in given]
        buffers = [(t, t.clone()) for t in self._network.tensors() if not isinstance(t, nn.Parameter)]
        try:
            with torch.random.fork_rng([t.device for t in given[:1] if t.is_cuda]):
                return self._recorder.record(step, [*places, *weights])
        except Exception as error:  # a network may do anything
            self._failed = True
            warnings.warn(
                "the supernet is computed without CUDA graphs, more slowly, since it cannot be recorded: "
                f'{error}. execution="torch" does the same without this warning.',
                stacklevel=4,
            )
            return None
        finally:
            for buffer, copy in buffers:
                buffer.data.copy_(copy)  # unseen by autograd: an earlier call may still go backwards


class Call:
    """A function and its arguments.

    Args:
        function: The function.
        args, kwargs: Its arguments.

    Attributes:
        inputs: Tensors among the arguments.
        form: Description of everything else in the call.
    """

    def __init__(self, function: Compute, args: Any, kwargs: Any) -> None:
        self._function = function
        leaves, self._structure = tree_flatten((args, kwargs))
        self.inputs = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        self._others = [_PLACE if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self.form = repr(self._structure), repr(self._others)

    def compute(self, inputs: Sequence[Tensor] | None = None) -> Any:
        """Return the function's result, of other tensors if they are given."""
        values = iter(self.inputs if inputs is None else inputs)
        leaves = [next(values) if leaf is _PLACE else leaf for leaf in self._others]
        args, kwargs = tree_unflatten(leaves, self._structure)
        return self._function(*args, **kwargs)


_PLACE = "a tensor's place"


class _Network:
    """The modules, settings and tensors of a network at one time.

    Args:
        network: The network.
    """

    def __init__(self, network: nn.Module) -> None:
        self._modules = list(network.modules())  # they are kept, so that no other has the identity of one
        self._children = [m._modules for m in self._modules if m._modules]
        self._settings = [vars(m) for m in self._modules if type(m) not in _FIXED]
        self._tables: list[dict[str, Any]] = [
            t for m in self._modules for t in (m._parameters, m._buffers) if t
        ]
        self.hooks = [table for module in self._modules for table in hooks(module)]
        self._kept = list(self.tensors())
        self._state = self._present()

    def is_same(self) -> bool:
        """Return whether nothing but numbers in its tensors has changed."""
        return self._present() == self._state

    def _present(self) -> Hashable:
        return (
            [id(child) for table in self._children for child in table.values()],
            [value for table in self._settings for value in table.values() if isinstance(value, _PLAIN)],
            [(id(tensor), tensor.data_ptr()) for tensor in self.tensors()],
        )

    def tensors(self) -> Iterator[Tensor]:
        """Yield parameters and buffers."""
        for table in self._tables:
            yield from (tensor for tensor in table.values() if tensor is not None)

    def weights(self) -> list[Tensor]:
        """Return the parameters that have gradients at present, each once."""
        return list({id(t): t for t in self.tensors() if t.requires_grad}.values())


def _form(tensors: Sequence[Tensor], groups: Sequence[Group]) -> Hashable:
    """Return everything but numbers that a computation with these tensors and groups depends on."""
    device = tensors[0].device.type
    autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
    sizes = tuple((t.shape, t.stride(), t.dtype, t.device, t.requires_grad) for t in tensors)
    tables = [
        [value is not None if name in _MIXTURE else value for name, value in group.computing().items()]
        for group in groups
    ]
    return autocast, sizes, repr(tables)


_MIXTURE = ("weights", "edges")


def _mixture(groups: Sequence[Group]) -> list[Tensor]:
    """Return the tensors that groups compute with."""
    tensors = (getattr(group, name) for group in groups for name in _MIXTURE)
    return [tensor for tensor in tensors if tensor is not None]


@contextmanager
def _mixing(groups: Sequence[Group], tensors: Iterator[Tensor]) -> Iterator[None]:
    """Let groups compute with other tensors inside, in the order of `_mixture`."""
    before = [(group, name, getattr(group, name)) for group in groups for name in _MIXTURE]
    try:
        for group, name, tensor in before:
            setattr(group, name, None if tensor is None else next(tensors))
        yield
    finally:
        for group, name, tensor in before:
            setattr(group, name, tensor)


class _Pass:
    """One forward pass; ended once its backward pass was computed."""

    ended = False


class _Owned(torch.autograd.Function):
    """Tensors as they are; their gradients are copied from where the next step overwrites them."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        return tuple(tensor.detach() for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        found = [grad for grad in grads if grad is not None]
        copies = iter(torch._foreach_mul(found, 1.0) if found else ())
        return tuple(None if grad is None else next(copies) for grad in grads)


class _Returned(torch.autograd.Function):
    """Copies of results, since the next step overwrites these."""

    @staticmethod
    def forward(ctx: Any, present: _Pass, *results: Tensor) -> tuple[Tensor, ...]:
        ctx.present = present
        return tuple(result.clone() for result in results)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        if torch.is_grad_enabled() or ctx.present.ended:
            raise SpaceError(
                "CUDA graphs go backwards once, and have no second derivative: compute inside "
                'spacelang.supernet.stepwise(module), or with execution="torch".'
            )
        ctx.present.ended = True
        return None, *grads
