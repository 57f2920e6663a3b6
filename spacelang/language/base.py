"""Space: the language half of `ModelSpace`, which adds what is computed from a space's graph."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple, Self, TypeVar, cast

import numpy as np
from torch import fx, nn

from ..arguments import refuse_unknown, unknown_explained
from ..errors import SpaceError
from ..randomness import require_generator
from .conditions import Constraint
from .context import FreezeContext, copy_with, current_context
from .decision_space import DecisionSpace, Site, refuse
from .decisions import Architecture, Decision
from .given_weights import are_others, copy_weights, norms
from .labels import label_scope, root_scope, warn_of_lost
from .misuse import failed, layer_error, layer_under_construction
from .nesting import levels_of, make_room
from .own_moves import MOVES, OwnMoves
from .primitive import BuilderType, Primitive, Undecided, collect, frozen_copy, held_values
from .values import Value, decisions_of

M = TypeVar("M", bound=nn.Module)
T = TypeVar("T")


class _Call(NamedTuple):
    """Arguments a space was constructed with, as given.

    In a frozen copy, values are those chosen and modules are the copy's own; a module that is no part of it,
    because the candidate it was given for is not chosen, keeps its choices open.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    prefix: str | None

    def __deepcopy__(self, memo: dict[int, Any]) -> _Call:
        return _Call(_copied_argument(self.args, memo), _copied_argument(self.kwargs, memo), self.prefix)


def decided(arguments: T) -> T:
    """Return a copy of arguments; inside `model_context` choices in them are decided."""
    context = current_context()
    if context is None:
        return copy.deepcopy(arguments)

    def decide(item: Any) -> Any:
        if isinstance(item, Value):
            return context.resolve(item)
        if not isinstance(item, Primitive):  # of a supernet
            return item
        problems = context.problems(item.decisions())
        return Undecided(problems) if problems else item.freeze(context.arch)

    with context.building(), copy_with(decide):
        return copy.deepcopy(arguments)


def _copied_argument(argument: Any, memo: dict[int, Any]) -> Any:
    if type(argument) in (list, tuple):
        return type(argument)(_copied_argument(item, memo) for item in argument)
    if type(argument) is dict:
        return {key: _copied_argument(item, memo) for key, item in argument.items()}
    if isinstance(argument, nn.Module):
        with copy_with(lambda item: item):  # with a memo of its own: what is part of the model is never open
            return copy.deepcopy(argument, dict(memo))
    return copy.deepcopy(argument, memo)


class _SpaceType(BuilderType):
    """Constructing a space numbers its labels, records its arguments and checks it as a whole."""

    @property
    def __jit_unused_properties__(cls) -> list[str]:
        """Properties that `torch.jit.script` is not to compile: those of every space."""
        return [
            name for name in dir(cls) if is_reserved(cls, name) and isinstance(getattr(cls, name), property)
        ]

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        context = current_context()
        prefix = None if _takes_prefix(cls) else kwargs.pop("prefix", None)
        scope = nullcontext() if prefix is None else label_scope(prefix)
        building = nullcontext() if context is None else context.building()
        with root_scope() as declared, scope, building, unknown_explained(cls, kwargs), _layers_explained():
            space = super().__call__(*args, **kwargs)
        space.__dict__["_call"] = _Call(args, kwargs, prefix)
        make_room(levels_of(space))
        if context is None:
            space.__dict__["_decision_space"] = collect(space)
            kept = space._decision_space.by_label  # clashing labels raise here, not at first use
            if declared is not None:
                warn_of_lost(declared, kept)
            space.__dict__["_first_norms"] = norms(space)
        elif context.depth == 0:  # an inner space may be part of a candidate that is not chosen
            _refuse_undecided(space, context)
            chosen = {label: context.arch[label] for label in context.arch if label in context.used}
            return built_as(space.plain(), chosen)
        return space


def _takes_prefix(space_type: type) -> bool:
    """Return whether a constructor has an argument `prefix` of its own."""
    return "prefix" in inspect.signature(space_type.__init__).parameters  # type: ignore[misc]


@contextmanager
def _layers_explained() -> Iterator[None]:
    """Inside, a TypeError by which a layer of torch.nn refuses a value choice says what to use instead."""
    try:
        yield
    except TypeError as error:
        layer = layer_under_construction(failed(error))
        given = () if layer is None else decisions_of(list(layer[1].f_locals.values()))
        if layer is None or not given:
            raise
        raise layer_error(layer[0], (decision.label for decision in given)) from error


def _refuse_undecided(model: nn.Module, context: FreezeContext) -> None:
    problems: list[str] = []
    for child in model.modules():
        problems += child.problems if isinstance(child, Undecided) else context.problems(held_values(child))
    refuse(list(dict.fromkeys(problems)), f"the architecture for {type(model).__name__}")


class Space(nn.Module, metaclass=_SpaceType):
    """A `ModelSpace` without its graph: everything the language alone can say of a space.

    Code below `spacelang.space` is written against this class; users inherit `ModelSpace`.

    Every space can be given a `prefix`, as in `Encoder(prefix="left")`, which its constructor need not have:
    all labels inside begin with it, so that one class used twice in a space makes decisions of its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self._constraints: list[Constraint] = []

    def __setattr__(self, name: str, value: Any) -> None:
        # As a submodule it would be registered, and yet the name would go on to mean the method.
        if isinstance(value, nn.Module | nn.Parameter) and is_reserved(type(self), name):
            raise SpaceError(
                f"{type(self).__name__}.{name} is a method or property of every ModelSpace; rename the "
                f"{type(value).__name__}, for example to self.{name}_."
            )
        super().__setattr__(name, value)

    # -- declaring ---------------------------------------------------------------------------------

    def constrain(self, expression: Value | bool, message: str | None = None) -> None:
        """Require `expression`, built from value choices, to hold for every architecture.

        Under `model_context` the expression is a plain boolean and is checked at once.

        Raises:
            SpaceError: In a frozen model, when it does not hold.
        """
        text = message or f"the constraint {expression} does not hold."
        if isinstance(expression, Value):
            self._constraints.append(Constraint(expression, text))
        elif not expression:
            raise SpaceError(text)

    @property
    def arguments(self) -> dict[str, Any]:
        """Constructor arguments by name, as given (defaults left out)."""
        bound = self._bound()
        given = dict(list(bound.arguments.items())[1:]) | self._prefix
        for name, parameter in bound.signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                given |= given.pop(name, {})
        return given

    @property
    def _prefix(self) -> dict[str, str]:
        """Prefix of all labels as a keyword argument, if one was given."""
        prefix = self.__dict__["_call"].prefix
        return {} if prefix is None else {"prefix": prefix}

    def _bound(self) -> inspect.BoundArguments:
        args, kwargs, _ = self.__dict__["_call"]
        return inspect.signature(type(self).__init__).bind(self, *args, **kwargs)

    def rebuild(self, **overrides: Any) -> Self:
        """Construct the same class again with some arguments changed.

        Inside `model_context` this gives a fixed model with fresh weights; of choices and values given as
        arguments it gets what the architecture chose.

        Raises:
            ArgumentError: The constructor does not have such an argument.
        """
        refuse_unknown(type(self), overrides)
        bound = self._bound()
        parameters = bound.signature.parameters
        rest = next((n for n, p in parameters.items() if p.kind is p.VAR_KEYWORD), "")
        for name, value in overrides.items():
            if name in parameters:
                bound.arguments[name] = value
            else:
                bound.arguments.setdefault(rest, {})[name] = value
        args, kwargs = decided((bound.args[1:], bound.kwargs))
        built = type(self)(*args, **kwargs | self._prefix)
        if current_context() is not None:
            return built
        if self.keeps_weights:
            copy_weights(self.state_dict(), built)
            built = built.keeping_weights()
        return built.joined(further_decisions(self))

    @property
    def was_changed(self) -> bool:
        """Whether parameters were loaded or changed after the construction."""
        before = self.__dict__.get("_first_norms")
        return before is not None and are_others(before, norms(self))

    @property
    def keeps_weights(self) -> bool:
        """Whether `rebuild` also copies the weights; see `keeping_weights`."""
        return bool(self.__dict__.get("_keeps_weights"))

    def keeping_weights(self) -> Self:
        """Return this space, whose `rebuild` from now on also copies the weights where they fit."""
        kept = copy.copy(self)
        kept.__dict__["_keeps_weights"] = True
        return kept

    def joined(self, decisions: Iterable[Decision]) -> Self:
        """Return this space with further decisions that are not part of its models, such as hyper-parameters.

        It shares this space's modules. Its architectures have the labels of both; a label that both have is
        one decision. The models it freezes are those of this space.

        Raises:
            SpaceError: A label is used for two different decisions.
        """
        given = tuple(decisions)
        if not given:
            return self
        known = self.decision_space
        sites = (*known.sites, *map(Site, given))
        joint = copy.copy(self)
        joint.__dict__["_own_space"] = own_decisions(self)
        joint.__dict__["_decision_space"] = DecisionSpace(sites, known.constraints, known.symmetries)
        joint.decision_space.by_label  # noqa: B018  (clashing labels raise here)
        return joint

    # -- reading -----------------------------------------------------------------------------------

    @property
    def decision_space(self) -> DecisionSpace:
        """Decisions, conditions and constraints as data, apart from any module."""
        return self.__dict__.get("_decision_space") or DecisionSpace(())

    @property
    def search_space(self) -> DecisionSpace:
        """`decision_space` with the `sample`, `mutate`, `crossover` and `neighbours` of this class.

        A search by trials moves in it; a class that defines one of these methods says how.
        """
        known = self.decision_space
        own = frozenset(name for name in MOVES if getattr(type(self), name) is not getattr(Space, name))
        if not own:
            return known
        alone = copy.copy(self)
        alone.__dict__["_decision_space"] = own_decisions(self)
        alone.__dict__.pop("_own_space", None)
        further = further_decisions(self)
        return OwnMoves(
            known.sites, known.constraints, known.symmetries, space=alone, own=own, further=further
        )

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """Every decision once, in the order of construction."""
        return tuple(self.decision_space.by_label.values())

    # -- architectures -----------------------------------------------------------------------------

    def size(self) -> int | float:
        """Return the exact number of distinct architectures; infinite with a range without a step.

        Counts canonical architecture dicts: conditional structure, constraints and the order of
        exchangeable slots are taken into account (a `Repeat` of 1 to 3 two-way choices has 14).

        Warns:
            UserWarning: Constraints tie too many decisions together to count; the number is an upper bound.
        """
        return self.decision_space.size()

    @property
    def size_is_exact(self) -> bool:
        """Whether `size()` is exact; where too much depends on too much it is an upper bound."""
        return self.decision_space.is_counted

    @property
    def bound(self) -> int | float:
        """`size()`, without a warning where it is an upper bound."""
        return self.size() if self.size_is_exact else self.decision_space.bound

    def default(self) -> Architecture:
        """Return the architecture of first candidates."""
        return self.decision_space.default()

    def sample(self, rng: np.random.Generator) -> Architecture:
        """Draw an architecture: each active decision by its prior, conditioned on the constraints."""
        require_generator("rng", rng)
        return self.decision_space.sample(rng)

    def grid(self, points: int | None = None) -> Iterator[Architecture]:
        """Yield every architecture once; `points` values of each range without a step.

        Raises:
            SpaceError: There is such a range, and no number of points.
        """
        return self.decision_space.grid(points)

    def neighbours(self, arch: Mapping[str, Any]) -> Iterator[Architecture]:
        """Yield every architecture that differs from `arch` in one decision."""
        return self.decision_space.neighbours(arch)

    def mutate(self, arch: Mapping[str, Any], rng: np.random.Generator) -> Architecture:
        """Change one active decision; what becomes active is drawn."""
        require_generator("rng", rng)
        return self.decision_space.mutate(arch, rng)

    def crossover(self, a: Mapping[str, Any], b: Mapping[str, Any], rng: np.random.Generator) -> Architecture:
        """Take each decision from one of two parents."""
        require_generator("rng", rng)
        return self.decision_space.crossover(a, b, rng)

    def canonical(self, arch: Mapping[str, Any]) -> Architecture:
        """Return the one dict of all that mean the same: no inactive labels, exchangeable slots in order."""
        return self.decision_space.canonical(arch)

    def validate(self, arch: object) -> None:
        """Raise a `SpaceError` that lists every problem of an architecture dict; return if there is none."""
        self.decision_space.validate(arch)

    def encode(self, arch: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return a fixed-length vector: one indicator for every candidate of every decision."""
        return self.decision_space.encode(arch)

    def freeze(self, arch: Mapping[str, Any]) -> Self:
        """Return an independent plain model of `arch` that inherits this space's weights.

        Raises:
            SpaceError: With every problem of `arch`.
        """
        return cast(Self, frozen_space(self, arch))

    def __prepare_scriptable__(self) -> nn.Module:
        """Return what `torch.jit.script` compiles.

        In evaluation mode a model with frozen cells or `InputChoice`s, which take any number of inputs as
        TorchScript does not, is the graph that torch.fx traces.
        """
        if self.training or not any(map(_takes_any_number, self.modules())):
            return self
        try:
            traced = fx.symbolic_trace(self)
        except Exception:  # any forward may run here; TorchScript then says what it cannot compile
            return self
        for node in traced.graph.nodes:
            node.type = None  # annotations are strings here, which TorchScript does not read
        traced.recompile()
        return traced

    def plain(self) -> nn.Module:
        """Return the model that this is once all is chosen: itself, or what a space stands around."""
        return self


def _takes_any_number(module: nn.Module) -> bool:
    parameters = inspect.signature(module.forward).parameters.values()
    return any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters)


def frozen_space(space: Space, arch: Mapping[str, Any], memo: Mapping[int, Any] | None = None) -> nn.Module:
    """Return what `Space.freeze` does.

    Args:
        space: Left untouched.
        arch: Architecture dict.
        memo: Substitutes for parts of the space, such as its tensors, by identity.
    """
    space.validate(arch)
    own = own_decisions(space)
    chosen = own.canonical({label: arch[label] for label in arch if label in own.by_label})
    chosen |= slot_order(own, arch)
    return built_as(without_decisions(frozen_copy(space, chosen, memo)).plain(), chosen)


def is_reserved(space_type: type, name: str) -> bool:
    """Return whether the library's own base classes of `space_type` define `name`."""
    bases = (base for base in space_type.__mro__ if base.__name__ in ("Space", "ModelSpace"))
    return any(name in vars(base) for base in bases if base.__module__.startswith("spacelang."))


def slot_order(space: DecisionSpace, arch: Mapping[str, Any]) -> Architecture:
    """Return the slots of `arch` as given: a model keeps its user's order, not the canonical one."""
    return {label: arch[label] for s in space.symmetries for label in s.labels if label in arch}


def own_decisions(space: Space) -> DecisionSpace:
    """Return the decisions in the modules of a space, without those it was joined with."""
    own: DecisionSpace = space.__dict__.get("_own_space", space.decision_space)
    return own


def further_decisions(space: Space) -> tuple[Decision, ...]:
    """Return the decisions that a space was joined with."""
    own = len(own_decisions(space).sites)
    return tuple(site.decision for site in space.decision_space.sites[own:])


def without_decisions(model: M) -> M:
    """Make the spaces in a frozen or relaxed copy forget decisions, constraints and norms of the original."""
    for child in model.modules():
        if isinstance(child, Space):
            for name in ("_decision_space", "_own_space", "_first_norms"):
                child.__dict__.pop(name, None)
            child._constraints = []
    return model


def built_as(model: M, arch: Architecture) -> M:
    """Let a frozen model know its architecture."""
    model.__dict__["_architecture"] = arch
    return model


def architecture_of(model: nn.Module) -> Architecture | None:
    """Return the architecture that a model was frozen or built as; None unless it is a frozen `ModelSpace`.

    >>> from spacelang import LayerChoice, ModelSpace, model_context
    >>> class Net(ModelSpace):
    ...     def __init__(self) -> None:
    ...         super().__init__()
    ...         self.layer = LayerChoice({"tanh": nn.Tanh(), "none": nn.Identity()}, label="layer")
    >>> architecture_of(Net().freeze({"layer": "none"}))
    {'layer': 'none'}
    """
    arch = model.__dict__.get("_architecture")
    return None if arch is None else dict(arch)
