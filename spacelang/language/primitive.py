"""The protocol every choice follows, and how a module tree is read and copied through it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

from torch import nn

from ..arguments import unknown_explained
from ..errors import SpaceError
from .conditions import ALWAYS, Condition, Constraint, Symmetry, both
from .context import FreezeContext, copy_with, current_context, replacing, space_mode
from .decision_space import DecisionSpace, Site
from .decisions import Decision
from .labels import declare
from .misuse import is_torch_layer, layer_error
from .tally import Tally
from .values import Value, decisions_of

M = TypeVar("M", bound=nn.Module)


class BuilderType(type):
    """Metaclass of classes whose call does more than construct: `help()` still shows their constructor."""

    @property
    def __signature__(cls) -> inspect.Signature:
        signature = inspect.signature(cls.__init__)  # type: ignore[misc]
        return signature.replace(parameters=list(signature.parameters.values())[1:])


class _PrimitiveType(BuilderType):
    """Calling a primitive class inside `model_context` returns what the architecture chose."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        with unknown_explained(cls, kwargs):
            context = current_context()
            plain = cls.build(context, *args, **kwargs)  # type: ignore[attr-defined]
            if plain is not None:
                return plain
            primitive = super().__call__(*args, **kwargs)
            if context is None:
                declare(primitive.decisions())
            return primitive


class Relaxer(Protocol):
    """The tables and relaxed forms that a supernet offers to primitives."""

    def group(self, decision: Decision) -> Any:
        """Return the `spacelang.supernet.Group` of a decision: one row, one column per candidate."""
        ...

    def cell_group(self, topology: Any) -> Any:
        """Return the `spacelang.supernet.Group` of a cell: one row per edge, one column per operation."""
        ...

    def mixed(self, primitive: Any) -> nn.Module:
        """Return the relaxed form of a built-in primitive."""
        ...


class Replaceable(nn.Module):
    """A module that `copied` replaces by another: a choice, or its relaxed form in a supernet."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        replace = replacing()
        replacement = self if replace is None else replace(self)
        if replacement is not self:
            memo[id(self)] = result = copy.deepcopy(replacement, memo)
            return result
        duplicate = type(self).__new__(type(self))
        memo[id(self)] = duplicate
        duplicate.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return duplicate


class Primitive(Replaceable, metaclass=_PrimitiveType):
    """A module with a choice in it: the base class of `LayerChoice`, `Cell`, ... and of your own.

    A primitive of your own implements three methods:

    - `decisions()`: the decisions it takes;
    - `freeze(arch)`: the module it becomes, made of its own submodules (the caller copies them);
    - `relax(builder)`: the module that computes with a mixture in a `Supernet`.

    It is complete with these; `branches`, `constraints` and `symmetries` refine it, and `reads` and `tallies`
    say how its cost follows from the choices.
    """

    def __repr__(self) -> str:
        lines = [f"({name}): {module!r}".replace("\n", "\n  ") for name, module in self.shown()]
        inside = "".join(f"\n  {line}" for line in lines) + "\n" * bool(lines)
        return f"{type(self).__name__}({self.extra_repr()}{inside})"

    def extra_repr(self) -> str:
        return "; ".join(map(str, self.decisions()))

    def shown(self) -> Iterable[tuple[str, nn.Module]]:
        """Yield the submodules that `repr` lists below the labels and candidates, by name."""
        return self.named_children()

    def decisions(self) -> tuple[Decision, ...]:
        """Return the decisions taken here, not those of nested primitives."""
        raise NotImplementedError(f"{type(self).__name__} must implement decisions()")

    def freeze(self, arch: Mapping[str, Any]) -> nn.Module:
        """Return the module this becomes under `arch`; submodules may be used as they are."""
        raise NotImplementedError(f"{type(self).__name__} must implement freeze(arch)")

    def relax(self, builder: Relaxer) -> nn.Module:
        """Return the module that computes with the mixtures of `builder.group(...)`."""
        raise NotImplementedError(f"{type(self).__name__} must implement relax(builder)")

    def branches(self) -> Iterable[tuple[Condition, str, nn.Module]]:
        """Return the submodules as `(condition under which it is used, name, module)`."""
        return [(ALWAYS, name, child) for name, child in self.named_children()]

    def constraints(self) -> Iterable[Constraint]:
        """Return statements that every architecture must satisfy."""
        return ()

    def symmetries(self) -> Iterable[Symmetry]:
        """Return slots that may be exchanged without changing the model."""
        return ()

    def reads(self) -> tuple[Decision, ...]:
        """Return the decisions that `freeze` reads: its own, and those of choices inside that vanish."""
        return self.decisions()

    def tallies(self) -> Iterable[Tally]:
        """Return the results through which alone some of the decisions change the size of what it becomes."""
        return ()

    @classmethod
    def build(cls, context: FreezeContext | None, *args: Any, **kwargs: Any) -> nn.Module | None:
        """Return the plain module to construct instead of a primitive, or None for a primitive."""
        if context is None:
            return None
        with space_mode():
            primitive = cls(*args, **kwargs)
        space = collect(primitive)
        context.used.update(space.by_label)
        problems = space.unfit(context.arch)
        for condition, _, child in walk(primitive):  # choices it was given, made before it
            if isinstance(child, Undecided) and condition.holds(context.arch):
                problems += child.problems
        return Undecided(problems) if problems else frozen_copy(primitive, context.arch)


class Undecided(nn.Module):
    """Stands for a choice the architecture does not decide; `ModelSpace` refuses it in a finished model.

    Args:
        problems: Everything missing or wrong, one sentence each.
        known: Attributes that the choice also has in a space.
    """

    def __init__(self, problems: Iterable[str], **known: Any) -> None:
        super().__init__()
        self.problems = tuple(problems)
        self.__dict__.update(known)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "problems":
            return super().__getattr__(name)
        raise SpaceError(f"{name!r} is not known: {' '.join(self.problems)}")

    def forward(self, *args: object, **kwargs: object) -> object:
        raise SpaceError(" ".join(self.problems))


_OF_EVERY_MODULE = frozenset(vars(nn.Module()))  # hooks, parameters, submodules: no values are in them


def held_values(module: nn.Module) -> tuple[Decision, ...]:
    """Return the decisions of the values a module keeps as plain attributes."""
    return decisions_of(list(own_attributes(module).values()))


def own_attributes(module: nn.Module) -> dict[str, Any]:
    """Return the plain attributes of a module, without those that every module has."""
    return {name: each for name, each in vars(module).items() if name not in _OF_EVERY_MODULE}


def is_frozen(module: nn.Module) -> bool:
    """Return whether nothing in `module` is left to choose: no choice, no relaxed one, no value."""
    return not any(isinstance(child, Replaceable) or held_values(child) for child in module.modules())


def walk(
    module: nn.Module, condition: Condition = ALWAYS, path: str = ""
) -> Iterator[tuple[Condition, str, nn.Module]]:
    """Yield every module as `(condition under which it is used, path, module)`, outer ones first."""
    yield condition, path, module
    if isinstance(module, Primitive):
        children = [(both(condition, c), name, child) for c, name, child in module.branches()]
    else:
        children = [(condition, name, child) for name, child in module.named_children()]
    for inner, name, child in children:
        yield from walk(child, inner, f"{path}.{name}" if path else name)


def collect(module: nn.Module) -> DecisionSpace:
    """Read the decisions, conditions, constraints and symmetries of a module tree."""
    sites: list[Site] = []
    rules, symmetries = list[Constraint](), list[Symmetry]()
    for condition, _, child in walk(module):
        decisions = child.decisions() if isinstance(child, Primitive) else held_values(child)
        if decisions and is_torch_layer(type(child)):
            raise layer_error(type(child), (decision.label for decision in decisions))
        sites += [Site(decision, condition) for decision in decisions]
        if isinstance(child, Primitive):
            rules += child.constraints()
            symmetries += child.symmetries()
        else:
            rules += vars(child).get("_constraints", ())  # of a ModelSpace, nested ones included
    return DecisionSpace(tuple(sites), tuple(rules), tuple(symmetries))


def frozen_copy(module: M, arch: Mapping[str, Any], memo: Mapping[int, Any] | None = None) -> M:
    """Return an independent copy of `module` with the choices of `arch`; weights are inherited.

    Args:
        module: Left untouched.
        arch: Values of its decisions.
        memo: Substitutes for parts of the module, by identity.
    """

    def replace(item: Any) -> Any:
        return item.evaluate(arch) if isinstance(item, Value) else item.freeze(arch)

    return copied(module, replace, memo)


def copied(module: M, replace: Callable[[Any], Any], memo: Mapping[int, Any] | None = None) -> M:
    """Return a deep copy of `module` with a copy of `replace(x)` in place of each choice and value `x`."""
    with copy_with(replace):
        return copy.deepcopy(module, dict(memo or {}))


def require_frozen(model: nn.Module, purpose: str) -> None:
    """Raise unless `model` is an nn.Module without undecided choices.

    Args:
        model: A plain torch module, or a space to refuse.
        purpose: The verb of the message, such as "export".

    Raises:
        SpaceError: `model` is not a module, or a space; says how to freeze it.
    """
    if not isinstance(model, nn.Module):
        raise SpaceError(f"cannot {purpose} a {type(model).__name__}; expected a torch.nn.Module.")
    if not is_frozen(model):
        name = type(model).__name__
        raise SpaceError(
            f"cannot {purpose} {name}: it is a space with choices still open. Decide them first: "
            f"`model = space.freeze(arch)` (keeps weights), or "
            f"`with model_context(arch): model = {name}(...)`."
        )
