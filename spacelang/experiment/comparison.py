"""Several runs in one picture."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import SpaceError, quoted
from ..results import Drawing
from ..results.painting import Axis, Curve, chart
from ..results.report.statistics import best_so_far
from .loaded import LoadedExperiment


def compared(runs: Mapping[str, LoadedExperiment], *, metric: str | None = None) -> Drawing:
    """Return a picture of the progress of runs: the best value so far, or a metric after each epoch.

    Args:
        runs: Loaded runs by name: all by trials, or all one-shot.
        metric: Metric to draw. Default: the first objective of the first run; of one-shot searches the first
            metric whose name begins with "val".

    Raises:
        SpaceError: Some runs have trials and some have none, or a run lacks the metric.
    """
    one_shot = [name for name, run in runs.items() if run.is_one_shot]
    if one_shot and len(one_shot) < len(runs):
        raise SpaceError(
            f"one-shot searches ({quoted(one_shot)}) and searches by trials have no common axis; draw each "
            "kind by itself."
        )
    if one_shot:
        known = [name for run in runs.values() for epoch in run.course.epochs for name in epoch.metrics]
        metric = metric or next((name for name in known if name.startswith("val")), "val_acc")
        curves = [_epochs(name, run, metric) for name, run in runs.items()]
    else:
        metric = metric or next(iter(runs.values())).history.objectives[0].metric
        curves = [_trials(name, run, metric) for name, run in runs.items()]
    axis = Axis("epochs" if one_shot else "trials", whole=True)
    title = metric if one_shot else f"best {metric} so far"
    return Drawing(chart(curves, axis, Axis(metric), title=title, width=8.0, height=3.6))


def _epochs(name: str, run: LoadedExperiment, metric: str) -> Curve:
    told = [(at, e.metrics[metric]) for at, e in enumerate(run.course.epochs, 1) if metric in e.metrics]
    if not told:
        raise SpaceError(
            f"the run {name!r} has no metric {metric!r}; it has "
            f"{quoted(dict.fromkeys(n for e in run.course.epochs for n in e.metrics))}. Pass metric=."
        )
    return Curve(name, [at for at, _ in told], [value for _, value in told], dots=len(told) < 30)


def _trials(name: str, run: LoadedExperiment, metric: str) -> Curve:
    objectives = {objective.metric: objective for objective in run.history.objectives}
    if metric not in objectives:
        raise SpaceError(
            f"the run {name!r} was not judged by {metric!r}, but by {quoted(objectives)}; pass metric=."
        )
    objective = objectives[metric]
    trials = [trial for trial in run.history.done if run.history.has_scores(trial)]
    scores = best_so_far([objective.score(trial.metrics) for trial in trials])
    sign = objective.score({metric: 1.0})
    return Curve(name, list(range(1, len(trials) + 1)), [sign * score for score in scores], steps=True)
