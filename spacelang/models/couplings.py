"""Couplings: which dimensions of which parameters have the same channels, found by running a network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SpaceError
from ..graph.tensors import map_tensors, tensors_in, without_data
from ..randomness import global_generators_kept
from .atom_flow import AtomFlow
from .atoms import Atom, Dims, current, fresh, refuse, unify, within


@dataclass(frozen=True, eq=False)
class Recorded:
    """A call of a module, its tensors without data.

    Args:
        args: Positional arguments.
        kwargs: Keyword arguments.
        output: Returned value.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any


@dataclass(frozen=True, eq=False)
class Couplings:
    """Results of a run of a network.

    Args:
        tensors: Atoms of each parameter and buffer, by all its names.
        readers: Paths of the modules that read a parameter or buffer themselves, by its names.
        calls: First call of each module, by path.
        of: Returns the atoms of a tensor of the run.
    """

    tensors: dict[str, Dims]
    readers: dict[str, set[str]]
    calls: dict[str, Recorded]
    of: Callable[[Tensor], Dims]

    def dims(self, name: str) -> Dims:
        """Return the atoms of a parameter or buffer."""
        return tuple(current(atoms) for atoms in self.tensors[name])

    def members(self, atom: Atom) -> Iterator[tuple[str, int]]:
        """Yield the name and the dimension of everything that has an atom."""
        for name in self.tensors:
            for dim, atoms in enumerate(self.dims(name)):
                if atom in within(atoms):
                    yield name, dim


def named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter and buffer by name, and one that has several names by each of them."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def couplings_of(
    network: nn.Module,
    inputs: tuple[Any, ...],
    joined: Mapping[str, Callable[..., list[Any]]],
) -> Couplings:
    """Run a copy of a network in evaluation mode and follow the atoms of its parameters.

    It runs without data on the meta device; a network that looks at values runs as it is.

    Args:
        network: Left untouched.
        inputs: Positional arguments of its forward.
        joined: Functions, by the path of a module, that return several outputs in place of its own, of equal
            shapes; their atoms are the same, and the first one is used.

    Raises:
        SpaceError: The network does not run on the inputs.
    """
    try:
        return _Run(network, inputs, joined, has_data=False).result
    except Exception:  # any user code runs here; the run on real tensors below says what is wrong
        pass
    try:
        with global_generators_kept():
            return _Run(network, inputs, joined, has_data=True).result
    except SpaceError:
        raise
    except Exception as error:
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors_in(inputs)) or "none"
        raise SpaceError(
            f"{type(network).__name__} cannot be traced: it fails for example inputs of shape {shapes}: "
            f"{error}"
        ) from error


class _Run:
    """One run."""

    def __init__(
        self,
        network: nn.Module,
        inputs: tuple[Any, ...],
        joined: Mapping[str, Callable[..., list[Any]]],
        *,
        has_data: bool,
    ) -> None:
        self._running: list[str] = []
        self._calls: dict[str, Recorded] = {}
        self._flow = AtomFlow(lambda: self._running[-1] if self._running else "")
        memo = {} if has_data else {id(t): without_data(t) for _, t in named_tensors(network)}
        twin = copy.deepcopy(network, memo).eval()
        tensors = dict(named_tensors(twin))
        for tensor in tensors.values():
            self._flow.note(tensor, fresh(tensor.shape))
        for path, module in twin.named_modules():
            module.register_forward_pre_hook(partial(self._enter, path))
            module.register_forward_hook(partial(self._leave, path), with_kwargs=True, always_call=True)
        for path, run in joined.items():
            module = twin.get_submodule(path)
            vars(module)["forward"] = partial(self._join, path, partial(run, module))
        with torch.no_grad(), _fast_path_off(), _on(None if has_data else "meta"):
            given = map_tensors(lambda t: t.detach().clone() if has_data else without_data(t), inputs)
            with self._flow:
                self._mark(given, "it is an input of the network")
                self._mark(twin(*given), "the network returns it")
        self.result = self._read(tensors)

    def _mark(self, value: Any, reason: str) -> None:
        for tensor in tensors_in(_plain(value)):
            for atoms in self._flow.dims(tensor):
                refuse(atoms, reason)

    def _enter(self, path: str, module: nn.Module, args: Any) -> None:
        self._running.append(path)

    def _leave(self, path: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        self._running.pop()
        if path not in self._calls:
            self._calls[path] = Recorded(args, kwargs, output)

    def _join(self, path: str, run: Callable[..., list[Any]], *args: Any, **kwargs: Any) -> Any:
        outputs = run(*args, **kwargs)
        for other in outputs[1:]:
            for a, b in zip(tensors_in(_plain(outputs[0])), tensors_in(_plain(other)), strict=True):
                for x, y in zip(self._flow.dims(a), self._flow.dims(b), strict=True):
                    unify(x, y, f"what stands at {path} returns channels that are factored otherwise")
        return outputs[0]

    def _read(self, tensors: Mapping[str, Tensor]) -> Couplings:
        names: dict[int, list[str]] = {}
        for name, tensor in tensors.items():
            names.setdefault(id(tensor), []).append(name)
        readers: dict[str, set[str]] = {}
        for tensor, place in self._flow.read:
            for name in names.get(id(tensor), ()):
                readers.setdefault(name, set()).add(place)
        dims = {name: self._flow.dims(tensor) for name, tensor in tensors.items()}
        return Couplings(dims, readers, self._calls, self._flow.dims)


def _plain(value: Any) -> Any:
    """Return a value as the search for tensors can read it; models return dicts of their own classes."""
    return dict(value) if isinstance(value, Mapping) else value


@contextmanager
def _fast_path_off() -> Iterator[None]:
    """Compute attention of torch.nn operation by operation, not as one that cannot be followed."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _on(device: str | None) -> Iterator[None]:
    if device is None:
        yield
    else:
        with torch.device(device):
            yield
