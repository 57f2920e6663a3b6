"""Conditions, constraints and symmetries written as small tables."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial, reduce
from typing import Any

from ..errors import SpaceError
from .conditions import AllOf, AnyOf, Condition, Constraint, Is, Symmetry
from .decisions import Decision
from .factors import Factor, Key, TooWideError, Variable
from .values import Choice, Expression, Value, decisions_of, inner_first

_SMALL = 200  # combinations of decisions that are listed at once, without variables for parts
_MOST = 200_000  # combinations in one table
_MOST_TOGETHER = 1_000_000  # combinations in all tables

_ABSENT = object()  # what an inactive decision is, and whatever is computed from it


class Encoder:
    """Tables that say together which values of some decisions make an architecture.

    A statement about many decisions becomes several small tables, which share variables for its parts: a sum
    of a hundred widths has one for every partial sum.

    Args:
        decisions: Decisions by label, each after those its condition depends on.
        conditions: When each is active.
        constraints: Statements about these decisions.

    Attributes:
        values: Values of each label.
        codes: Codes of each variable: of a label positions in `values`, and None where it may be inactive.
        factors: Tables; every combination they list has weight 1.

    Raises:
        TooWideError: A statement has too many combinations.
    """

    def __init__(
        self,
        decisions: Mapping[str, Decision],
        conditions: Mapping[str, Condition],
        constraints: Iterable[Constraint],
    ) -> None:
        self.values: dict[str, list[Any]] = {}
        self.codes: dict[Variable, list[Any]] = {}
        self.factors: list[Factor] = []
        self._meanings: dict[Variable, dict[Any, Any]] = {}
        self._ranks: dict[Variable, int] = {}
        self._conditions = conditions
        self._left = _MOST_TOGETHER
        self._joints: dict[tuple[Any, Variable, Variable], Variable] = {}
        self._known: dict[int, tuple[object, Variable]] = {}  # parts by identity; kept alive, it is theirs
        for decision in decisions.values():
            self._add_decision(decision)
        for constraint in constraints:
            self._add_constraint(constraint)

    def order(self) -> list[Variable]:
        """Return every variable; a part comes right after the last decision it depends on."""
        return sorted(self.codes, key=self._ranks.__getitem__)

    def symmetry(self, symmetry: Symmetry) -> Factor:
        """Return the table of combinations in which the slots are in increasing order."""
        slots = symmetry.slots
        labels = tuple(label for slot in slots for label in slot)
        columns = [[code for code in self.codes[label] if code is not None] for label in slots[0]]
        contents = math.prod(map(len, columns))
        _check([math.comb(contents + len(slots) - 1, len(slots))])
        rows = itertools.combinations_with_replacement(itertools.product(*columns), len(slots))
        keys: list[Key] = [tuple(itertools.chain(*row)) for row in rows]
        if len({str(self._conditions[label]) for label in labels}) > 1:  # some may be absent without others
            _check(len(self.codes[label]) for label in labels)
            keys += [key for key in itertools.product(*(self.codes[x] for x in labels)) if None in key]
        else:
            keys.append((None,) * len(labels))
        return Factor(labels, dict.fromkeys(keys, 1))

    # -- decisions and conditions ----------------------------------------------------------------------

    def _add_decision(self, decision: Decision) -> None:
        label, condition = decision.label, self._conditions[decision.label]
        _check([decision.cardinality])
        values = self.values[label] = list(decision.values())
        self.codes[label] = list(range(len(values)))
        self._meanings[label] = {code: decision.parse(value) for code, value in enumerate(values)}
        self._ranks[label] = len(self.values)
        if not condition.labels:
            return
        is_there = self._truth(condition)
        self.codes[label].append(None)
        self._meanings[label][None] = _ABSENT
        meanings = self._meanings[is_there].items()
        present = [code for code, meaning in meanings if meaning]
        table = {(there, code): 1 for there in present for code in self.codes[label] if code is not None}
        table |= {(code, None): 1 for code, meaning in meanings if not meaning}
        self.factors.append(Factor((is_there, label), table))

    def _truth(self, condition: Condition) -> Variable:
        """Return the variable that says whether a condition holds."""
        if id(condition) in self._known:
            return self._known[id(condition)][1]
        if isinstance(condition, Is):
            accepted = condition.accepted
            found = self._part([self._term(condition.value)], lambda x: x is not _ABSENT and x in accepted)
        elif isinstance(condition, AllOf | AnyOf) and condition.parts:
            join = all if isinstance(condition, AllOf) else any
            found = reduce(partial(self._joined, join), map(self._truth, condition.parts))
        else:
            found = self._part_of(condition.labels, condition.holds)
        self._known[id(condition)] = condition, found
        return found

    def _joined(self, join: Callable[[Iterable[Any]], bool], one: Variable, other: Variable) -> Variable:
        """Return the variable of two together; conditions inside one another begin with the same parts."""
        key = join, one, other
        if key not in self._joints:
            self._joints[key] = self._part([one, other], lambda *both: join(both))
        return self._joints[key]

    # -- constraints and values ------------------------------------------------------------------------

    def _add_constraint(self, constraint: Constraint) -> None:
        labels, expression = sorted(constraint.labels, key=self._ranks.__getitem__), constraint.expression
        if self._is_small(labels) or not _has_parts(expression):
            truth = self._part_of(labels, constraint.holds)
        else:
            truth = self._part([self._term(expression)], lambda x: x is _ABSENT or bool(x))
        holds = [code for code, meaning in self._meanings[truth].items() if meaning]
        self.factors.append(Factor((truth,), {(code,): 1 for code in holds}))

    def _term(self, value: Value) -> Variable:
        """Return the variable of a value."""
        if type(value) is Choice:  # one of named objects is the object, not the name
            return value.decision.label
        for part in (*inner_first(value), value):
            if id(part) not in self._known:
                self._known[id(part)] = part, self._term_of(part)
        return self._known[id(value)][1]

    def _term_of(self, value: Value) -> Variable:
        labels = [decision.label for decision in value.decisions()]
        if not _has_parts(value):
            known = set(labels)
            return self._part_of(
                labels, lambda arch: value.evaluate(arch) if known <= arch.keys() else _ABSENT
            )
        assert isinstance(value, Expression)
        inner = [argument for argument in value.args if isinstance(argument, Value)]
        variables = [self._term(argument) for argument in inner]

        def compute(*meanings: Any) -> Any:
            if _ABSENT in meanings:
                return _ABSENT
            given = iter(meanings)
            return value.applied([next(given) if isinstance(a, Value) else a for a in value.args])

        return self._part(variables, compute)

    # -- parts -----------------------------------------------------------------------------------------

    def _is_small(self, labels: Iterable[str]) -> bool:
        return math.prod(len(self.codes[label]) for label in labels) <= _SMALL

    def _part_of(self, labels: Iterable[str], compute: Callable[[Mapping[str, Any]], Any]) -> Variable:
        """Add a variable for what is computed from an architecture."""
        names = list(labels)

        def of(*meanings: Any) -> Any:
            return compute({n: m for n, m in zip(names, meanings, strict=True) if m is not _ABSENT})

        return self._part(names, of)

    def _part(self, of: Sequence[Variable], compute: Callable[..., Any]) -> Variable:
        """Add a variable for what is computed from others."""
        scope = tuple(dict.fromkeys(of))
        _check([len(self.codes[variable]) for variable in scope])
        self._left -= math.prod(len(self.codes[variable]) for variable in scope)
        if self._left < 0:
            raise TooWideError
        part: Variable = ("part", len(self.codes))
        codes: dict[Any, Any] = {}
        table: dict[Key, int] = {}
        for key in itertools.product(*(self.codes[variable] for variable in scope)):
            meaning = {v: self._meanings[v][code] for v, code in zip(scope, key, strict=True)}
            try:
                result = compute(*(meaning[variable] for variable in of))
                code = codes.setdefault((type(result), result), (len(codes), result))[0]
            except (SpaceError, TypeError) as error:  # cannot be computed everywhere, or compared
                raise TooWideError from error
            table[*key, code] = 1
        self.factors.append(Factor((*scope, part), table))
        self.codes[part] = [code for code, _ in codes.values()]
        self._meanings[part] = dict(codes.values())
        self._ranks[part] = max(self._ranks[variable] for variable in scope)
        return part


def _check(counts: Iterable[float]) -> None:
    if math.prod(counts) > _MOST:
        raise TooWideError


def _has_parts(value: Value) -> bool:
    """Return whether a value is computed from arguments that are values or constants."""
    return isinstance(value, Expression) and all(
        isinstance(argument, Value) or not decisions_of(argument) for argument in value.args
    )
