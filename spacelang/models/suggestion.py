"""Choices that an existing model offers."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..errors import SpaceError
from ..graph.flop_mode import PLAIN
from ..graph.tensors import example_arguments, map_tensors
from .adopted_model import searchable
from .couplings import Couplings, Recorded, couplings_of, named_tensors
from .passing import passing
from .selectors import Selector, Skip, Width, matches
from .substitutes import has_own_class
from .widths import Target, heads_of, produced, target_of

_SHARES = (0.25, 0.5, 0.75, 1.0)


def suggest(model: nn.Module, example_inputs: Any) -> dict[str, Selector]:
    """Print the choices that a model offers, as the dict that `searchable` takes, and return it.

    It offers to skip residual blocks (those that return their input when all their weights are zero), widths
    that are no residual sum, and the heads of attention whose class runs with fewer. What cannot be followed
    is left out; `searchable` says why.

    Args:
        model: Any module.
        example_inputs: Tensor, or tuple of positional arguments of the forward pass.

    Returns:
        Choices by path; remove and change what you like.
    """
    inputs = example_arguments(example_inputs)
    couplings = couplings_of(model, inputs, {})
    found: dict[str, Selector] = dict.fromkeys(_blocks(model, couplings), Skip())
    found |= _widths(model, couplings)
    found |= _heads(model, couplings, inputs)
    written = _patterns(found, [path for path, _ in model.named_modules()])
    print(_text(written))
    return written


# -- blocks ------------------------------------------------------------------------------------------------


def _blocks(model: nn.Module, couplings: Couplings) -> list[str]:
    """Return the paths of residual blocks, the innermost ones."""
    found: list[str] = []
    for path, module in reversed(list(model.named_modules())):  # inner ones first
        is_inside = any(other.startswith(f"{path}.") for other in found)
        if path and not is_inside and any(True for _ in module.children()) and _has_weights(module):
            call = couplings.calls.get(path)
            if call is not None and isinstance(passing(call), nn.Module) and _is_residual(module, call):
                found.append(path)
    return found[::-1]


def _has_weights(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def _is_residual(block: nn.Module, call: Recorded) -> bool:
    """Return whether a block with all its weights zero returns its input, which is not negative."""
    twin = copy.deepcopy(block, {id(tensor): _zeroed(tensor) for _, tensor in named_tensors(block)}).eval()
    generator = torch.Generator().manual_seed(0)

    def drawn(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value if isinstance(value, PLAIN) else None  # a cache of keys and values
        if not value.is_floating_point():
            return torch.zeros(value.shape, dtype=value.dtype)
        return torch.rand(value.shape, generator=generator).to(value.dtype)

    args, kwargs = tree_map(drawn, (call.args, dict(call.kwargs)))
    try:
        with torch.no_grad():
            output = twin(*map_tensors(torch.clone, args), **map_tensors(torch.clone, kwargs))
    except Exception:  # any user code runs here, on numbers that mean nothing
        return False
    given = args[0] if args else next(iter(kwargs.values()))
    returned = output if isinstance(output, Tensor) else output[0]
    return torch.equal(given, returned)


def _zeroed(tensor: Tensor) -> Tensor:
    """Return zeros in place of a weight or statistic, and other buffers, such as indices, as they are."""
    if not isinstance(tensor, nn.Parameter) and not tensor.is_floating_point():
        return tensor.clone()
    zeros = torch.zeros(tensor.shape, dtype=tensor.dtype)
    return nn.Parameter(zeros, requires_grad=False) if isinstance(tensor, nn.Parameter) else zeros


# -- widths ------------------------------------------------------------------------------------------------


def _widths(model: nn.Module, couplings: Couplings) -> dict[str, Selector]:
    """Return the free widths that are no residual sum, each at the first layer that returns it."""
    found: dict[str, Selector] = {}
    seen = set[int]()
    for path, module in model.named_modules():
        attribute = _output_attribute(module)
        if attribute is None:
            continue
        try:
            target = target_of(module, path, attribute, couplings)
        except SpaceError:
            continue
        sizes = _shares(target)
        if not target.atom.is_summed and id(target.atom) not in seen and len(sizes) > 1:
            seen.add(id(target.atom))
            found[f"{path}.{attribute}"] = Width(sizes)
    return found


def _output_attribute(module: nn.Module) -> str | None:
    if produced(module) is None or isinstance(module, nn.Embedding):
        return None
    return next((name for name in ("out_channels", "out_features", "nf") if hasattr(module, name)), None)


def _shares(target: Target) -> list[float]:
    """Return the shares of a size that can be had."""
    return [share for share in _SHARES if not share * target.total % target.step]


def _heads(model: nn.Module, couplings: Couplings, inputs: tuple[Any, ...]) -> dict[str, Selector]:
    """Return the attention modules whose class runs with fewer heads."""
    found: dict[str, Target] = {}
    for path, module in reversed(list(model.named_modules())):
        if path and not any(other.startswith(f"{path}.") for other in found):
            try:
                found[path] = heads_of(module, path, couplings)
            except SpaceError:
                continue
    offered: dict[str, Selector] = {}
    runs: dict[type[nn.Module], bool] = {}
    for path, target in reversed(found.items()):
        attention, sizes = model.get_submodule(path), _shares(target)
        kind = type(attention)
        if kind not in runs:
            runs[kind] = has_own_class(attention) and _can_be_cut(model, path, inputs)
        if runs[kind] and len(sizes) > 1:
            offered[path] = Width(sizes)
    return offered


def _can_be_cut(model: nn.Module, path: str, inputs: tuple[Any, ...]) -> bool:
    try:
        searchable(model, {path: Width([1, 1.0])}, inputs)
    except SpaceError:
        return False
    return True


# -- writing -----------------------------------------------------------------------------------------------


def _patterns(found: dict[str, Selector], paths: list[str]) -> dict[str, Selector]:
    """Return choices with `*` where exactly the chosen paths match."""
    written: dict[str, Selector] = {}
    done = set[str]()
    for path, selector in found.items():
        if path in done:
            continue
        alike = {other for other, same in found.items() if same == selector and other not in done}
        for pattern in _wider(path):
            covered = {other for other in found if matches(pattern, other)}
            attribute = "" if path in paths else "." + path.rpartition(".")[2]
            every = {f"{p}{attribute}" for p in paths if matches(pattern, f"{p}{attribute}")}
            if covered <= alike and every <= covered and (len(covered) > 1 or pattern == path):
                break
        written[pattern] = selector
        done |= covered
    return written


def _wider(path: str) -> Iterator[str]:
    """Yield a path with its numbers replaced by `*`: all of them, then fewer, then none."""
    parts = path.split(".")
    numbered = [i for i, part in enumerate(parts) if re.search(r"\d+$", part)]
    for count in range(len(numbered), -1, -1):
        for chosen in combinations(numbered, count):
            starred = (re.sub(r"\d+$", "*", part) if i in chosen else part for i, part in enumerate(parts))
            yield ".".join(starred)


def _text(choices: dict[str, Selector]) -> str:
    lines = [f"    {pattern!r}: {_written(selector)}," for pattern, selector in choices.items()]
    return "\n".join(["{", *lines, "}"]).replace("'", '"')


def _written(selector: Selector) -> str:
    return f"Width({list(selector.sizes)})" if isinstance(selector, Width) else "Skip()"
