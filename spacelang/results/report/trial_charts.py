"""Charts of a search by trials."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from ...language import Architecture, Interval
from ...trials.objectives import Objective
from ...trials.trial import Trial
from ..painting import Axis, Band, Curve, Scene, Strand, bars, chart, number_text, parallel
from .judged import Judged
from .statistics import best_so_far, importance, random_quantiles

_MOST_DOTS = 2000
_MOST_STRANDS = 300
_MOST_AXES = 16
_MOST_CURVES = 100
_MOST_BARS = 20


def measured(history: Judged) -> list[Trial]:
    """Return the trials whose objectives are numbers, in order."""
    return [trial for trial in history.done if history.has_scores(trial)]


def tip(trial: Trial, history: Judged) -> str:
    """Return a text on a trial: its number, its objectives and its architecture."""
    metrics = (f"{o.metric} {number_text(trial.metrics[o.metric])}" for o in history.objectives)
    arch = "\n".join(f"{label}: {value}" for label, value in list(trial.arch.items())[:24])
    return f"trial {trial.number}: {', '.join(metrics)}\n{arch}"


def progress(history: Judged, baseline: Judged | None) -> Scene | None:
    """Return the best value so far over the trials, with the band of a random search."""
    trials = measured(history)
    if not trials:
        return None
    objective = history.objectives[0]
    scores = [history.score(trial) for trial in trials]
    xs = list(range(1, len(trials) + 1))
    values = [trial.metrics[objective.metric] for trial in trials]
    shown = _thinned(len(trials), _MOST_DOTS)
    dots = Curve(
        "a trial",
        [xs[at] for at in shown],
        [values[at] for at in shown],
        "series-7",
        line=False,
        tips=[tip(trials[at], history) for at in shown],
        trials=[trials[at].number for at in shown],
    )
    best = Curve("best so far", xs, _signed(best_so_far(scores), objective), "series-1", steps=True)
    curves = [dots, best]
    if baseline is not None:
        others = [objective.score(trial.metrics) for trial in measured(baseline)]
        low, middle, high = (
            _signed(random_quantiles(others, len(trials), q), objective) for q in (0.1, 0.5, 0.9)
        )
        curves.insert(
            0,
            Curve(
                "random search: median, 10 to 90 %",
                xs[: len(middle)],
                middle,
                "series-0",
                dashed=True,
                steps=True,
                band=Band(low, high),
            ),
        )
    return chart(curves, Axis("trials", whole=True), Axis(objective.metric), title="Best so far", width=8.0)


def _signed(scores: Sequence[float], objective: Objective) -> list[float]:
    """Return scores as values of the metric."""
    sign = objective.score({objective.metric: 1.0})
    return [sign * score for score in scores]


def _thinned(count: int, most: int) -> list[int]:
    """Return at most so many places out of `count`, evenly spread."""
    return list(range(0, count, max(1, math.ceil(count / most))))


def pareto(history: Judged) -> Scene | None:
    """Return the trials by their first two objectives, with those that no other beats."""
    if len(history.objectives) < 2:
        return None
    trials = measured(history)
    if not trials:
        return None
    x, y = history.objectives[1], history.objectives[0]
    front = sorted(history.pareto(), key=lambda trial: trial.metrics[x.metric])
    first = {trial.number for trial in front}
    others = [trial for trial in trials if trial.number not in first]
    others = [others[at] for at in _thinned(len(others), _MOST_DOTS)]
    curves = [
        _points("a trial", others, history, "series-7"),
        _points("Pareto front", front, history, "series-1"),
    ]
    values = [trial.metrics[x.metric] for trial in trials]
    log = min(values) > 0 and max(values) > 20 * min(values)
    return chart(curves, Axis(x.metric, log), Axis(y.metric), width=8.0, height=3.6)


def _points(name: str, trials: Sequence[Trial], history: Judged, colour: str) -> Curve:
    y, x = history.objectives[:2]
    return Curve(
        name,
        [trial.metrics[x.metric] for trial in trials],
        [trial.metrics[y.metric] for trial in trials],
        colour,
        line=False,
        tips=[tip(trial, history) for trial in trials],
        trials=[trial.number for trial in trials],
    )


def ranked_importance(history: Judged) -> list[tuple[str, float]]:
    """Return decisions with the share of the variance of the first objective that each explains."""
    trials = [t for t in measured(history) if not t.overrides and math.isfinite(history.score(t))]
    if len(trials) < 8:
        return []
    return importance(
        [_binned(trial.arch, history) for trial in trials], [history.score(trial) for trial in trials]
    )


def _binned(arch: Architecture, history: Judged) -> Architecture:
    """Return an architecture in which a number of an interval is one of five equal parts of its scale."""
    known = {label: history.space.by_label.get(label) for label in arch}
    ranges = {label: decision for label, decision in known.items() if isinstance(decision, Interval)}
    return arch | {label: min(int(5 * d.place(arch[label])), 4) for label, d in ranges.items()}


def importances(history: Judged) -> Scene | None:
    """Return the importance of the decisions as bars."""
    shares = ranked_importance(history)[:_MOST_BARS]
    if not shares:
        return None
    return bars(shares, f"share of the variance of {history.objectives[0].metric}")


def coordinates(history: Judged) -> Scene | None:
    """Return parallel coordinates: the most important decisions, then the objectives."""
    trials = [trial for trial in measured(history) if not trial.overrides]
    if len(trials) < 2:
        return None
    labels = [label for label, _ in ranked_importance(history)] or list(trials[0].arch)
    labels = labels[: _MOST_AXES - len(history.objectives)]
    ranked = sorted(trials, key=lambda trial: history.scores(trial))
    shown = sorted({*_thinned(len(ranked), _MOST_STRANDS), len(ranked) - 1})  # the best among them
    texts = {label: _values(label, trials, history) for label in labels}
    bounds = {o.metric: _range([trial.metrics[o.metric] for trial in trials]) for o in history.objectives}
    strands = []
    for place in shown:
        trial = ranked[place]
        heights = [_height(trial, label, texts[label], history) for label in labels]
        heights += [_share(trial.metrics[name], *ends) for name, ends in bounds.items()]
        strands.append(Strand(heights, place / (len(ranked) - 1), tip(trial, history), trial.number))
    axes = [*texts.items(), *((name, list(map(number_text, ends))) for name, ends in bounds.items())]
    return parallel(axes, strands, height=3.4)


def _values(label: str, trials: Sequence[Trial], history: Judged) -> list[str]:
    """Return the texts of a decision's values: in the order of its candidates, where these are known."""
    known = history.space.by_label.get(label)
    if isinstance(known, Interval):
        return [number_text(known.at(0)), number_text(known.at(1))]
    seen = {_text(trial.arch[label]) for trial in trials if label in trial.arch}
    order = [] if known is None or known.cardinality > 64 else [_text(value) for value in known.values()]
    return [text for text in order if text in seen] or sorted(seen)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _height(trial: Trial, label: str, texts: Sequence[str], history: Judged) -> float:
    if label not in trial.arch:
        return math.nan
    known = history.space.by_label.get(label)
    if isinstance(known, Interval):
        return known.place(trial.arch[label])
    return texts.index(_text(trial.arch[label])) / (len(texts) - 1) if len(texts) > 1 else 0.5


def _range(values: Sequence[float]) -> tuple[float, float]:
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    return min(finite), max(finite)


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5


def learning_curves(history: Judged) -> Scene | None:
    """Return the first objective over the epochs of trials that reported it."""
    metric = history.objectives[0].metric
    told = [trial for trial in history if sum(metric in report.metrics for report in trial.reports) > 1]
    if not told:
        return None
    best = -1 if history.best_trial is None else history.best_trial.number
    thinned = {told[at].number for at in _thinned(len(told), _MOST_CURVES)} | {best}
    curves = []
    for trial in (trial for trial in told if trial.number in thinned):
        reports = [report for report in trial.reports if metric in report.metrics]
        is_best = trial.number == best
        curves.append(
            Curve(
                f"trial {trial.number}, the best" if is_best else "",
                [report.epoch + 1 for report in reports],
                [report.metrics[metric] for report in reports],
                "series-1" if is_best else "series-7",
            )
        )
    return chart(curves, Axis("epochs", whole=True), Axis(metric), width=8.0)
