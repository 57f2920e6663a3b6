"""Reports as whole pages, and as pieces for notebooks."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence

from ...errors import SpaceError, listed, written
from ...files import dump_yaml
from ...language import Architecture, Space
from ..painting import stylesheet
from ..pictures import draw
from . import course_sections, trial_sections
from .contents import Contents
from .html import Html, details, duration, element, joined, picture, settings, table
from .judged import Judged
from .trial_charts import progress

_STYLE = """
:root{color-scheme:light dark;--ground:#fff;--text:#1a1a1a;--soft:#5c6670;--rule:#dfe3e6;--tint:#f4f6f8}
@media (prefers-color-scheme:dark){
:root{--ground:#15181c;--text:#e6e8ea;--soft:#9aa5b1;--rule:#39414a;--tint:#1e2329}}
.spacelang{font:15px/1.5 system-ui,sans-serif;color:var(--text)}
body{margin:0 auto;max-width:70rem;padding:1rem 1.5rem 4rem;background:var(--ground)}
.spacelang h1{font-size:1.6rem;margin:.5rem 0}.spacelang h2{font-size:1.2rem;margin:2rem 0 .5rem}
.spacelang nav a{margin-right:1rem;color:inherit}.spacelang figure{margin:.5rem 0;overflow-x:auto}
.spacelang svg{max-width:100%;height:auto}.spacelang .wide{overflow-x:auto}
.spacelang table{border-collapse:collapse;font-size:.9em}
.spacelang th,.spacelang td{text-align:left;padding:.2rem .7rem;border-bottom:1px solid var(--rule)}
.spacelang td{color:var(--text)}.spacelang tr{background:none!important}
.spacelang th{color:var(--soft);font-weight:normal}.spacelang td.number{text-align:right}
.spacelang pre{background:var(--tint);padding:.7rem;overflow-x:auto;font-size:.85em}
.spacelang .status{border:1px solid var(--rule);border-radius:.5rem;padding:.1rem .6rem;font-size:1rem}
.spacelang .on{stroke-width:3.5!important;opacity:1!important}
"""
# The same trial lights up in every chart. The page is whole without it.
_SCRIPT = """
"use strict";
function light(event, on) {
  const shape = event.target.closest && event.target.closest("[data-trial]");
  if (!shape) return;
  const same = document.querySelectorAll('[data-trial="' + Number(shape.dataset.trial) + '"]');
  for (const other of same) other.classList.toggle("on", on);
}
document.addEventListener("mouseover", event => light(event, true));
document.addEventListener("mouseout", event => light(event, false));
"""
_SHOWN = 3  # architectures that are drawn


def page(contents: Contents) -> str:
    """Return a report as one HTML file.

    It loads nothing: its policy forbids every connection and every script but its own, which only marks a
    trial in all charts at once.
    """
    allowed = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'"
    parts = list(_sections(contents))
    links = element("nav", *(element("a", name, href=f"#s{at}") for at, (name, _) in enumerate(parts)))
    head = joined(
        [
            Html('<meta charset="utf-8">'),
            Html(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
            Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            element("title", contents.title),
            Html(f"<style>{_STYLE}{stylesheet()}</style>"),
        ]
    )
    status = element("span", contents.status, class_="status")
    body = [element("h1", contents.title, " ", status), links]
    for at, (name, part) in enumerate(parts):
        body.append(element("section", element("h2", name), part, id=f"s{at}"))
    script = Html(f"<script>{_SCRIPT}</script>")
    html = element(
        "html", element("head", head), element("body", *body, script, class_="spacelang"), lang="en"
    )
    return f"<!DOCTYPE html>\n{html}\n"


def _sections(contents: Contents) -> Iterator[tuple[str, Html]]:
    yield "Overview", overview(contents)
    if contents.best:
        yield "Found architectures", architectures(contents.best[:_SHOWN], contents.space)
    if contents.history is not None:
        yield from trial_sections.sections(contents, contents.history)
    else:
        yield from course_sections.sections(contents)
    yield "Load it again", _reload(contents)


def overview(contents: Contents) -> Html:
    """Return what was run and how far it has come."""
    rows: list[tuple[str, object]] = [("state", contents.status)]
    why = contents.summary.get("ended") or contents.course.ended
    rows += [("end", str(why))] * bool(why)
    rows += list(_progress(contents))
    for part in ("space", "strategy", "evaluator"):
        told = contents.part(part)
        given = {k: v for k, v in told.items() if k not in ("class", "decisions", "arguments")}
        arguments = told.get("arguments")
        given = {**given, **(arguments if isinstance(arguments, Mapping) else {})}
        rows.append((part, f"{told.get('class', '?')}({settings(given)})"))
    for name in ("objectives", "limits", "seed", "weights", "execution", "threads"):
        if contents.record.get(name) not in (None, [], ""):
            rows.append((name, _plain(contents.record[name])))
    versions = contents.record.get("versions")
    if isinstance(versions, Mapping):
        rows.append(("versions", settings(versions)))
    rows.append(("folder", contents.directory))
    return table(["", ""], rows)


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _progress(contents: Contents) -> Iterator[tuple[str, object]]:
    """Yield how much was done, how long it took, and how long the rest is likely to take."""
    history, course = contents.history, contents.course
    if history is not None:
        states = ("done", "running", "waiting", "failed", "infeasible")
        counts = [f"{history.count(state)} {state}" for state in states if history.count(state)]  # type: ignore[arg-type]
        yield "trials", ", ".join(counts) or "none"
        times = [trial.duration for trial in history if trial.duration]
        if times:
            yield "time", f"{duration(sum(times))} in trials; {duration(sum(times) / len(times))} for one"
        best = history.best_trial
        if best is not None:
            goals = {o.metric: best.metrics[o.metric] for o in history.objectives}
            yield "best", f"trial {best.number}: {settings(goals)}"
        return
    planned = sum(stage.epochs or 0 for stage in course.stages)
    done = len(course.epochs)
    yield "epochs", f"{done} of {planned}" if planned else done
    if done:
        total = sum(epoch.seconds for epoch in course.epochs)
        left = (planned - done) * total / done if contents.status == "running" else 0
        rest = f"; about {duration(left)} left" if left > 0 else ""
        yield "time", f"{duration(total)}; {duration(total / done)} for an epoch{rest}"


def architectures(archs: Sequence[Architecture], space: Space | None) -> Html:
    """Return pictures of architectures, best first, each with its dict."""
    parts = []
    for rank, arch in enumerate(archs, 1):
        parts.append(element("h3", "The best" if rank == 1 else f"Number {rank}"))
        parts += [drawn(arch, space), details("as YAML", element("pre", _yaml(arch)))]
    return joined(parts)


def drawn(arch: Architecture, space: Space | None) -> Html:
    """Return a picture of an architecture, or a sentence that says why there is none."""
    try:
        known = space is not None and not space.decision_space.problems(arch)
        return picture(draw(arch, space=space if known else None).scene)
    except SpaceError as error:
        return element("p", f"It cannot be drawn: {error}")


def _yaml(arch: Architecture) -> str:
    try:
        return dump_yaml(arch)
    except SpaceError:
        return json.dumps(arch, indent=2, default=str)


def _reload(contents: Contents) -> Html:
    name = str(contents.part("space").get("class", "Net")).rpartition(".")[2]
    lines = [
        "from spacelang import Experiment",
        "",
        f"run = Experiment.load({contents.directory!r})",
        "run.best                # architecture dict",
        "run.to_dataframe()      # a row for each " + ("epoch" if contents.history is None else "trial"),
        f"run = Experiment.load({contents.directory!r}, space={name}(...))",
        'run.export_top_models(1, formatter="instance")  # plain modules',
    ]
    shell = f"spacelang show {contents.directory}\nspacelang top {contents.directory} -k 5"
    return joined([element("pre", "\n".join(lines)), element("pre", shell)])


# -- pieces for notebooks ----------------------------------------------------------------------------------


def _piece(*parts: Html) -> str:
    own = re.sub(r"^body{.*}$", ".spacelang{background:var(--ground);padding:.5rem}", _STYLE, flags=re.M)
    own = own.replace(":root{", ".spacelang{")  # the rest of the notebook keeps its own colours
    style = Html(f"<style>{own}{stylesheet()}</style>")
    return element("div", style, *parts, class_="spacelang")


def experiment_html(contents: Contents) -> str:
    """Return what a notebook shows of an experiment: the overview, the best architecture and the progress."""
    parts = [element("h3", contents.title, " ", element("span", contents.status, class_="status"))]
    parts.append(overview(contents))
    if contents.best:
        parts.append(drawn(contents.best[0], contents.space))
    scene = None if contents.history is None else progress(contents.history, None)
    if scene is not None:
        parts.append(picture(scene))
    return _piece(*parts)


def history_html(history: Judged) -> str:
    """Return what a notebook shows of a history: its progress and its best trials."""
    scene = progress(history, None)
    counts = element(
        "p", f"{len(history)} trials, {history.measured} measured, {history.count('failed')} failed"
    )
    return _piece(counts, *([picture(scene)] if scene else []), trial_sections.top_table(history))


def space_html(space: Space) -> str:
    """Return what a notebook shows of a space: its size, a picture, and its decisions."""
    count = written(space.bound) if space.size_is_exact else f"at most {written(space.bound)}"
    title = f"{type(space).__name__}: {len(space.decisions)} decisions, {count} architectures"
    rows = [
        [d.label, listed(d.candidates), str(space.decision_space.conditions[d.label])]
        for d in space.decisions
    ]
    decisions = table(["decision", "candidates", "active"], rows[:200])
    return _piece(element("h3", title), picture(draw(space).scene), details("decisions", decisions))
