"""Following feature maps through arbitrary code."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .example_inputs import map_tensors, tensors_in
from .regions import End

T = TypeVar("T")
Sources = frozenset[End]


class Flow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes, for everything computed while it is active, which feature maps it was computed from.

    Knowledge is kept by storage, so that views and operations in place need no treatment of their own.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # Storages are kept alive: the address of a freed one could come back as another.
        self._sources: dict[int, tuple[torch.UntypedStorage, Sources]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        joined = self.sources((args, kwargs))
        for tensor in tensors_in(result):
            self._note(tensor, joined)
        return result

    def _note(self, tensor: Tensor, sources: Sources) -> None:
        storage = tensor.untyped_storage()
        self._sources[storage._cdata] = storage, sources

    def sources(self, value: Any) -> Sources:
        """Feature maps that the tensors in `value` were computed from."""
        known = (self._sources.get(t.untyped_storage()._cdata) for t in tensors_in(value))
        return frozenset().union(*(entry[1] for entry in known if entry is not None))

    def marked(self, value: T, end: End) -> T:
        """Return `value` with fresh tensors in it, which are the feature map `end`."""

        def mark(tensor: Tensor) -> Tensor:
            fresh = tensor.clone()
            self._note(fresh, frozenset((end,)))
            return fresh

        return map_tensors(mark, value)


def shape_attributes(tensors: Iterable[Tensor]) -> dict[str, Any]:
    """`shape` of the first tensor; where there are several, all of them as text in `shapes`."""
    shapes = [list(tensor.shape) for tensor in tensors]
    if not shapes:
        return {}
    several = {"shapes": ["x".join(map(str, shape)) for shape in shapes]} if len(shapes) > 1 else {}
    return {"shape": shapes[0], **several}
