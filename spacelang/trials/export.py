"""Trials as a pandas table and as an Optuna study, and back."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..errors import SpaceError
from ..language import Decision, DecisionSpace, Interval
from .objectives import Maximize, Objective
from .trial import Trial

if TYPE_CHECKING:
    import optuna
    import pandas

_OVERRIDES = "overrides"


def to_dataframe(trials: Iterable[Trial]) -> pandas.DataFrame:
    """Return a table with a row for each trial, by number.

    Its columns are the state, the metrics, the duration in seconds and `arch/{label}` of each decision;
    `overrides/{name}` are constructor arguments where they differ from the space's.

    Raises:
        SpaceError: Pandas is not installed.
    """
    frames = _needed("pandas", "to_dataframe", "dataframe")
    rows = [
        {
            "number": trial.number,
            "state": trial.state,
            **trial.metrics,
            "duration": trial.duration,
            "seed": trial.seed,
            "max_epochs": trial.max_epochs,
            "error": trial.error,
            **{f"overrides/{name}": value for name, value in trial.overrides.items()},
            **{f"arch/{label}": value for label, value in trial.arch.items()},
        }
        for trial in trials
    ]
    table: pandas.DataFrame = frames.DataFrame(rows)
    return table if table.empty else table.set_index("number").sort_index()


def to_optuna(
    trials: Iterable[Trial],
    objectives: Sequence[Objective],
    decisions: Mapping[str, Decision],
    storage: Any = None,
    name: str = "spacelang",
) -> optuna.Study:
    """Return an Optuna study of the trials; those without a measurement have failed in it.

    Args:
        trials: Trials of a search.
        objectives: Objectives of the search.
        decisions: Decisions by label; those and values of them that occur only in trials are added. A range
            is a distribution of numbers, any other decision a category.
        storage: Optuna storage; in memory by default.
        name: Name of the study.

    Raises:
        SpaceError: Optuna is not installed.
    """
    library = _needed("optuna", "to_optuna", "optuna")
    directions = ["maximize" if isinstance(o, Maximize) else "minimize" for o in objectives]
    study: optuna.Study = library.create_study(storage=storage, study_name=name, directions=directions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", library.exceptions.ExperimentalWarning)
        study.set_metric_names([objective.metric for objective in objectives])
    trials = list(trials)
    distributions = _distributions(decisions, trials)
    finished = (trial for trial in trials if trial.is_finished)
    study.add_trials([_frozen(library, trial, objectives, distributions) for trial in finished])
    return study


def _frozen(
    optuna: Any, trial: Trial, objectives: Sequence[Objective], distributions: Mapping[str, Any]
) -> Any:
    values = [trial.metrics.get(objective.metric, math.nan) for objective in objectives]
    measured = trial.state == "done" and not any(math.isnan(value) for value in values)
    states = optuna.trial.TrialState
    params = {label: _category(value) for label, value in trial.arch.items()}
    reports: dict[int, float] = {}
    if len(objectives) == 1:
        metric = objectives[0].metric
        reports = {r.epoch: r.metrics[metric] for r in trial.reports if metric in r.metrics}
    return optuna.trial.create_trial(
        state=states.COMPLETE if measured else states.FAIL,
        values=values if measured else None,
        params=params,
        distributions={label: distributions[label] for label in params},
        user_attrs={
            "number": trial.number,
            "state": trial.state,
            **({_OVERRIDES: dict(trial.overrides)} if trial.overrides else {}),
            **_finite(trial.metrics),
        },
        intermediate_values=reports,
    )


def from_optuna(study: optuna.Study, space: DecisionSpace) -> list[Trial]:
    """Return the completed trials of a study whose parameters are the labels of a space.

    Values are candidates themselves, as `to_optuna` writes them, or their text. Trials that were measured
    with other constructor arguments of the space are left out.

    Raises:
        SpaceError: A parameter is not a label, or a value is not a candidate.
    """
    names = study.metric_names or ["default", *(f"value_{i}" for i in range(1, len(study.directions)))]
    found: list[Trial] = []
    for frozen in study.trials:
        if frozen.state.name == "COMPLETE" and _OVERRIDES not in frozen.user_attrs:
            arch = space.canonical({label: _value(space, label, v) for label, v in frozen.params.items()})
            metrics = dict(zip(names, frozen.values, strict=True))
            found.append(Trial(len(found), arch, 0, "done", metrics=metrics))
    return found


def _distributions(decisions: Mapping[str, Decision], trials: Iterable[Trial]) -> dict[str, Any]:
    """Return Optuna's distribution of each decision, by label; trials of a rebuilt space may have others."""
    seen: dict[str, dict[Any, None]] = {label: {} for label in decisions}
    for trial in trials:
        for label, value in trial.arch.items():
            seen.setdefault(label, {})[_category(value)] = None
    return {label: _distribution(decisions.get(label), list(values)) for label, values in seen.items()}


def _distribution(decision: Decision | None, seen: Sequence[Any]) -> Any:
    """Return Optuna's distribution of a decision, of which some values were seen."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(decision, Interval):
        known = () if decision is None else map(_category, decision.values())
        return CategoricalDistribution(list(dict.fromkeys((*known, *seen))))
    low, high = min([decision.low, *seen]), max([decision.top, *seen])
    if (low, high) != (decision.low, decision.top):  # numbers of a rebuilt space, between its steps too
        return FloatDistribution(low, high, log=decision.log)
    if decision.is_integer:
        return IntDistribution(int(low), int(high), step=int(decision.step or 1))
    return FloatDistribution(low, high, log=decision.log, step=decision.step)


def _category(value: Any) -> Any:
    """Return what Optuna accepts as a choice: a plain value, or the text of a set of inputs."""
    return value if isinstance(value, str | int | float | bool | None) else json.dumps(list(value))


def _value(space: DecisionSpace, label: str, category: Any) -> Any:
    if label not in space.by_label:
        raise SpaceError(f"the study has a parameter {label!r}, which is not a decision of the space.")
    decision = space.by_label[label]
    if isinstance(decision, Interval):
        return decision.parse(category)
    for value in decision.values():
        if category in (_category(value), str(value)):
            return value
    raise SpaceError(f"the study has {category!r} for {label!r}, which is not a candidate of it.")


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _needed(module: str, what: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise SpaceError(f"{what} needs {module}: pip install 'spacelang-nas[{extra}]'.") from error
