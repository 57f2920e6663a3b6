"""Sections of a report on a search by trials."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ...trials.trial import Trial
from .contents import Contents
from .html import Html, details, element, joined, picture, settings, table
from .judged import Judged
from .trial_charts import coordinates, importances, learning_curves, measured, pareto, progress

_TOP = 10
_FAILURES = 20


def sections(contents: Contents, history: Judged) -> Iterator[tuple[str, Html]]:
    """Yield headings and contents."""
    baseline = contents.baseline
    if baseline is None and contents.strategy == "Random" and len(measured(history)) > 2:
        baseline = history  # its own trials, in any order
    yield "Best architectures", top_table(history)
    for heading, scene in (
        ("Progress", progress(history, baseline)),
        ("Trade-off", pareto(history)),
        ("Parallel coordinates", coordinates(history)),
        ("Importance of decisions", importances(history)),
        ("Learning curves", learning_curves(history)),
    ):
        if scene is not None:
            yield heading, picture(replace(scene, title=heading))
    if history.failed:
        yield "Failures", _failures(history)
    limits = contents.record.get("limits")
    if limits or history.count("infeasible"):
        yield "Limits", _limits(contents, history)


def top_table(history: Judged, count: int = _TOP) -> Html:
    """Return the best architectures with their metrics."""
    ranked = [trial for trial in history.ranked(count) if history.has_scores(trial)]
    if not ranked:
        return element("p", "No trial has been measured yet.")
    names = list(dict.fromkeys(name for trial in ranked for name in trial.metrics))
    goals = {objective.metric for objective in history.objectives}
    names.sort(key=lambda name: name not in goals)
    rows = [
        [trial.number, *(trial.metrics.get(name, "") for name in names[:8]), settings(trial.arch)]
        for trial in ranked
    ]
    return table(["trial", *names[:8], "architecture"], rows)


def _failures(history: Judged) -> Html:
    """Return the errors, alike ones together, each with the traceback of its first trial."""
    kinds: dict[str, list[Trial]] = {}
    for trial in history.failed:
        kinds.setdefault(trial.reason, []).append(trial)
    shown = sorted(kinds.items(), key=lambda item: -len(item[1]))[:_FAILURES]
    parts = [
        details(
            f"{len(trials)} x {reason or 'no error was kept'} (first: trial {trials[0].number})",
            element("pre", trials[0].error),
        )
        for reason, trials in shown
    ]
    left = len(kinds) - len(shown)
    if left:
        parts.append(element("p", f"{left} further kinds of errors are left out."))
    return joined([element("p", f"{len(history.failed)} trials failed."), *parts])


def _limits(contents: Contents, history: Judged) -> Html:
    """Return how many architectures broke each limit, and what the best one costs."""
    best = history.best_trial
    broken = [trial.error for trial in history if trial.state == "infeasible"]
    given = contents.record.get("limits")
    rows = []
    for limit in map(str, given if isinstance(given, list) else []):
        cost = limit.partition(" ")[0]
        rows.append(
            [
                limit,
                sum(limit in error for error in broken),
                "" if best is None else best.metrics.get(cost, ""),
            ]
        )
    return table(["limit", "architectures that broke it", "the best one has"], rows)
