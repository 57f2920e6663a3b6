"""Layers of torch.nn that were given value choices: which one it is, and what to write instead."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from types import FrameType

from torch import nn

from ..errors import SpaceError, quoted


def is_torch_layer(kind: type[nn.Module]) -> bool:
    """Return whether a class is of torch.nn, so that spacelang.nn has one of the same name."""
    return kind.__module__.startswith("torch.nn.")


def layer_error(kind: type[nn.Module], labels: Iterable[str]) -> SpaceError:
    """Return the error of a layer that was given the choices of these labels."""
    name, given = kind.__name__, f"was given the value choice {quoted(labels)}"
    if is_torch_layer(kind):
        return SpaceError(
            f"torch.nn.{name} {given}; use spacelang.nn.{name}, which takes the same arguments "
            "(`from spacelang import nn`)."
        )
    return SpaceError(
        f"{name} {given}; make a layer of it that takes value choices: "
        f"`class Elastic{name}(spacelang.nn.ValueLayer): layer_type = {name}`."
    )


def layer_under_construction(frames: Iterable[FrameType]) -> tuple[type[nn.Module], FrameType] | None:
    """Return the class of the layer of torch.nn, or the subclass of one, that is being constructed.

    Args:
        frames: Calls in progress, innermost first.

    Returns:
        The outermost of layers inside each other, and the frame of its constructor; None if there is none.
    """
    found: tuple[type[nn.Module], FrameType] | None = None
    for frame in frames:
        is_torch = frame.f_globals.get("__name__", "").startswith("torch.nn.")
        owner = frame.f_locals.get("self") if is_torch and frame.f_code.co_name == "__init__" else None
        if isinstance(owner, nn.Module):
            found = type(owner), frame
        elif found is not None and not is_torch:
            break
    return found


def running() -> Iterator[FrameType]:
    """Yield the calls in progress, innermost first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def failed(error: BaseException) -> list[FrameType]:
    """Return the calls that an error has left, innermost first."""
    frames, trace = [], error.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame)
        trace = trace.tb_next
    return frames[::-1]
