"""Sections of a report on a one-shot search."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ..course import Course, Epoch, Stage
from ..painting import Axis, Curve, Scene, chart, small_multiples
from ..painting.scene import finite
from .contents import Contents
from .html import Html, element, joined, picture, table

_MOST_PANELS = 60
_MOST_CURVES = 8
_EPOCHS = Axis("epochs", whole=True)


def sections(contents: Contents) -> Iterator[tuple[str, Html]]:
    """Yield headings and contents."""
    course = contents.course
    if metrics := _metrics(course):
        yield "Metrics", joined(picture(scene) for scene in metrics)
    if probabilities := joined(_probabilities(course)):
        yield "Probabilities", probabilities
    if course.records:
        yield "Monitors", joined(picture(scene) for scene in _records(course))
    if course.decisions:
        yield "Decisions", decisions(course)
    if limits := _penalties(contents):
        yield "Constraints", limits


def _place(course: Course) -> dict[tuple[int, int], int]:
    """Return the number of each epoch among those of all stages, from 1."""
    return {(epoch.stage, epoch.number): at for at, epoch in enumerate(course.epochs, 1)}


def _metrics(course: Course) -> list[Scene]:
    """Return a chart for each kind of metric, such as losses and accuracies."""
    kinds: dict[str, dict[str, Curve]] = {}
    place = _place(course)
    names = dict.fromkeys(name for epoch in course.epochs for name in epoch.metrics)
    for name in names:
        if name.endswith(("_step", "_epoch")) and name.rpartition("_")[0] in names:
            continue
        told = [epoch for epoch in course.epochs if name in epoch.metrics]
        xs = [place[e.stage, e.number] for e in told]
        curve = Curve(name, xs, [epoch.metrics[name] for epoch in told], dots=len(told) < 30)
        kinds.setdefault(name.rpartition("_")[2], {})[name] = curve
    return [
        chart(
            list(curves.values())[:_MOST_CURVES],
            _EPOCHS,
            Axis(kind),
            width=8.0,
            height=2.4,
        )
        for kind, curves in kinds.items()
    ]


def _probabilities(course: Course) -> Iterator[Html]:
    """Yield small charts of the probabilities of each group, a panel for each row."""
    for stage in course.stages:
        epochs = [e for e in course.epochs if e.stage == stage.number and e.tables]
        if not epochs:
            continue
        sets: dict[tuple[str, ...], dict[str, list[Curve]]] = {}
        for label, (rows, columns) in stage.groups.items():
            for row, name in enumerate(rows):
                curves = _row(epochs, label, row, len(columns))
                if curves and len(columns) > 1:
                    panel = f"{label} {name}".strip()
                    sets.setdefault(tuple(columns), {})[panel] = curves
        for columns, panels in sets.items():
            yield from _panels(panels, columns, stage, course)


def _row(epochs: list[Epoch], label: str, row: int, count: int) -> list[Curve]:
    told = [e for e in epochs if label in e.tables and row < len(e.tables[label])]
    xs = [epoch.number + 1 for epoch in told]
    return [
        Curve("", xs, [_entry(epoch.tables[label][row], k) for epoch in told]) for k in range(count)
    ] * bool(told)


def _entry(row: list[float], column: int) -> float:
    return row[column] if column < len(row) else float("nan")


def _panels(
    panels: Mapping[str, list[Curve]], columns: tuple[str, ...], stage: Stage, course: Course
) -> Iterator[Html]:
    shown = dict(list(panels.items())[:_MOST_PANELS])
    title = "Probabilities over the epochs"
    if len(course.stages) > 1:
        title += f", stage {stage.number + 1}"
    top = _top(shown)
    yield picture(small_multiples(shown, (0.0, top), columns, title=f"{title}, from 0 to {top:.2g}"))
    if len(shown) < len(panels):
        left = len(panels) - len(shown)
        yield element("p", f"{left} further rows are left out; epochs.jsonl has them.")


def _top(panels: Mapping[str, list[Curve]]) -> float:
    """Return the upper end of the scale of all panels: 1, or less while no candidate stands out."""
    values = (value for curves in panels.values() for curve in curves for value in curve.ys)
    most = max(finite(values), default=1.0)
    return next((top for top in (0.05, 0.1, 0.2, 0.5) if most <= 0.95 * top), 1.0)


def _records(course: Course) -> list[Scene]:
    """Return a chart for each kind of record, named by what comes before the slash."""
    kinds: dict[str, list[Curve]] = {}
    place = _place(course)
    for name in course.records:
        told = [(e, value) for e in course.epochs for value in e.records.get(name, ())]
        xs = [place[e.stage, e.number] for e, _ in told]
        curve = Curve(name, xs, [value for _, value in told], dots=len(told) < 30)
        kinds.setdefault(name.partition("/")[0], []).append(curve)
    return [
        replace(chart(curves[:_MOST_CURVES], _EPOCHS, Axis(kind), width=8.0, height=2.1), title=kind)
        for kind, curves in kinds.items()
    ]


def decisions(course: Course) -> Html:
    """Return the decisions of a greedy schedule on a line of time, and as a table."""
    taken = course.decisions
    groups = list(dict.fromkeys(str(d.get("group", "")) for d in taken))
    curves = []
    for group in groups:
        own = [d for d in taken if str(d.get("group", "")) == group]
        xs = [float(d.get("epoch", 0)) + 1 for d in own]
        tips = [f"{d.get('row', '')}: {d.get('operation', '')}" for d in own]
        curves.append(Curve(group, xs, [float(groups.index(group))] * len(own), line=False, tips=tips))
    scene = chart(curves, _EPOCHS, Axis(names=groups), width=8.0, height=0.6 + 0.35 * len(groups))
    rows = [[_cell(d, name) for name in ("epoch", "group", "row", "operation", "score")] for d in taken]
    timeline = picture(replace(scene, title="Decisions"))
    return joined([timeline, table(["epoch", "cell", "edge", "operation", "score"], rows)])


def _cell(decision: Mapping[str, Any], name: str) -> object:
    value = decision.get(name, "")
    return value + 1 if name == "epoch" and isinstance(value, int) else value


def _penalties(contents: Contents) -> Html:
    """Return the targets of penalties, and the costs that were expected at last."""
    extras = contents.part("strategy").get("extras")
    rows = []
    for extra in extras if isinstance(extras, list) else []:
        if isinstance(extra, Mapping) and "target" in extra:
            metric = str(extra.get("metric", ""))
            told = contents.course.records.get(f"expected_{metric}", [])
            rows.append([metric, extra["target"], told[-1] if told else "", str(extra.get("form", ""))])
    return table(["cost", "target", "expected at last", "form"], rows) if rows else Html("")
