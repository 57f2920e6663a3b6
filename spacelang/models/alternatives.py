"""Blocks that may be skipped and layers that may be replaced, put into a copy of a model."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from ..errors import SpaceError
from ..graph.tensors import tensors_in
from ..language import Categorical, LayerChoice, is_frozen
from ..language.values import Choice
from .couplings import Recorded
from .passing import KeptBlock, passing
from .selectors import Depth, OneOf, Selected, Skip


class Adopted:
    """A copy of a model into which choices are put.

    Args:
        model: The model, left untouched.

    Attributes:
        network: The copy.
        modules: Modules that it had at first, by path.
        names: Paths that they had, by identity.
    """

    def __init__(self, model: nn.Module) -> None:
        self.network = copy.deepcopy(model)
        self.modules = dict(self.network.named_modules(remove_duplicate=False))
        self.names = {id(module): path for path, module in self.network.named_modules()}

    def path(self, original: str) -> str:
        """Return where a module is now, by its path in the model.

        Raises:
            SpaceError: It is no longer there.
        """
        paths: dict[int, str] = {id(module): path for path, module in self.network.named_modules()}
        module = self.modules[original]
        if id(module) not in paths:
            raise SpaceError(f"{original!r} is always replaced")
        return paths[id(module)]

    def replace(self, module: nn.Module, other: nn.Module) -> None:
        """Put another module, which may hold the first one, in all places of the first."""
        inside = {id(child) for child in other.modules()}
        for parent in self.network.modules():
            for name, child in parent._modules.items():
                if child is module and id(parent) not in inside:
                    parent._modules[name] = other

    def put(self, chosen: Sequence[Selected], calls: Mapping[str, Recorded]) -> None:
        """Put choices of blocks and layers into the network.

        Args:
            chosen: The choices.
            calls: A call of each module of the model, by path.

        Raises:
            SpaceError: Blocks cannot be skipped, or candidates are no modules; says which and why.
        """
        problems: list[str] = []
        for item in chosen:
            if isinstance(item.selector, Skip):
                problems += self._put_skip(item, calls)
            elif isinstance(item.selector, Depth):
                problems += self._put_depth(item, item.selector, calls)
            elif isinstance(item.selector, OneOf):
                self._put_layers(item, item.selector)
        if problems:
            raise SpaceError(f"some blocks cannot be skipped: {'; '.join(problems)}.")

    def _put_skip(self, item: Selected, calls: Mapping[str, Recorded]) -> list[str]:
        without = passing(calls.get(item.path))
        if isinstance(without, str):
            return [f"{item.path!r}: {without}"]
        block = self.modules[item.path]
        self.replace(block, LayerChoice({"keep": block, "skip": without}, label=item.label))
        return []

    def _put_depth(self, item: Selected, selector: Depth, calls: Mapping[str, Recorded]) -> list[str]:
        container, depths = self.modules[item.path], list(selector.depths)
        if not isinstance(container, nn.Sequential | nn.ModuleList):
            return [f"{item.path!r}: Depth is for an nn.Sequential or nn.ModuleList"]
        paths = [f"{item.path}.{name}" for name, _ in container.named_children()]
        if not depths or any(type(depth) is not int or not 0 <= depth <= len(paths) for depth in depths):
            return [f"{item.path!r}: depths are numbers from 0 to {len(paths)}; got {depths}"]
        depth, problems = Choice(Categorical(item.label, depths)), []
        for index, path in list(enumerate(paths))[min(depths) :]:
            without = passing(calls.get(path))
            if isinstance(without, str):
                problems.append(f"{path!r}: {without}")
            else:
                block = self.modules[path]
                self.replace(block, KeptBlock(block, without, depth, index))
        return problems

    def _put_layers(self, item: Selected, selector: OneOf) -> None:
        layer = self.modules[item.path]
        named: dict[str, nn.Module] = {} if selector.original is None else {selector.original: layer}
        for name, candidate in selector.candidates.items():
            given = candidate if isinstance(candidate, nn.Module) else candidate(layer)
            if not isinstance(given, nn.Module) or not is_frozen(given):
                raise SpaceError(f"candidate {name!r} of {item.path!r} is not a plain nn.Module.")
            named[name] = self._alike(copy.deepcopy(given), layer)
        self.replace(layer, LayerChoice(named, label=item.label))

    def _alike(self, candidate: nn.Module, layer: nn.Module) -> nn.Module:
        """Give a candidate the device, precision and mode of the layer in whose place it is."""
        weights = itertools.chain(layer.parameters(), self.network.parameters())
        like = next((weight for weight in weights if weight.is_floating_point()), None)
        candidate.train(layer.training)
        return candidate if like is None else candidate.to(like.device, like.dtype)

    def joined(self) -> dict[str, Callable[..., list[Any]]]:
        """Return for each choice a function that runs all that may stand there; see `couplings_of`."""
        choices = LayerChoice | KeptBlock
        return {p: _all_outputs for p, m in self.network.named_modules() if isinstance(m, choices)}


def _all_outputs(choice: nn.Module, *args: Any, **kwargs: Any) -> list[Any]:
    """Return the outputs of everything that can stand in one place.

    Raises:
        SpaceError: A candidate does not run there, or returns tensors of other shapes than the first.
    """
    if isinstance(choice, KeptBlock):
        return [choice.block(*args, **kwargs), choice.without(*args, **kwargs)]
    assert isinstance(choice, LayerChoice)
    outputs = []
    for name, candidate in zip(choice.decision.candidates, choice, strict=True):
        try:
            outputs.append(candidate(*args, **kwargs))
        except Exception as error:
            raise SpaceError(f"{name!r} does not run in place of {choice.label!r}: {error}") from error
        first, other = ([tuple(t.shape) for t in tensors_in(y)] for y in (outputs[0], outputs[-1]))
        if first != other:
            raise SpaceError(
                f"{name!r} returns {other} in place of {choice.label!r}, where {first} is expected."
            )
    return outputs
