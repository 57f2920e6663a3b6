"""The guard every export goes through: a result is a network with no choice left open."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spacelang.errors import SpaceError

if TYPE_CHECKING:
    from torch import nn


def require_frozen(model: nn.Module, purpose: str) -> None:
    """Raise unless `model` is an nn.Module without undecided choices.

    Args:
        model: a plain torch module, or a space to refuse.
        purpose: the verb of the message, such as 'export'.

    Raises:
        SpaceError: not a module, or a space; says how to freeze it.
    """
    from torch import nn

    from spacelang.language import is_frozen

    if not isinstance(model, nn.Module):
        raise SpaceError(f"cannot {purpose} a {type(model).__name__}; expected a torch.nn.Module.")
    if not is_frozen(model):
        name = type(model).__name__
        raise SpaceError(
            f"cannot {purpose} {name}: it is a space with choices still open. Decide them first: "
            f"`model = space.freeze(arch)` (keeps weights), or "
            f"`with model_context(arch): model = {name}(...)`."
        )
