"""Reports: whole without a network, safe with hostile texts, and the same in a browser, light and dark."""

from __future__ import annotations

import dataclasses
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from spacelang import Experiment
from spacelang.evaluators import Functional
from spacelang.experiment.report_file import ReportFile
from spacelang.experiment.run_folder import RunFolder
from spacelang.language import DecisionSpace, Interval
from spacelang.language.decision_space import Site
from spacelang.results.course import Course, Epoch, Stage
from spacelang.results.painting import Text
from spacelang.results.report import Contents, page
from spacelang.results.report.html import duration
from spacelang.results.report.statistics import best_so_far, importance, random_quantiles
from spacelang.results.report.trial_charts import coordinates, ranked_importance
from spacelang.strategies.multi_trial import Grid, Random
from spacelang.trials import History, Maximize, Minimize, Report, Trial

from ..toys import trials as toy

HOSTILE = "</title></svg><script>alert('x')</script><img src=http://evil onerror=alert(1)>\x1b\x00\"'"


class Outline(HTMLParser):
    """Elements and texts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def outline(text: str) -> Outline:
    found = Outline(text)
    assert [tag for tag, _ in found.tags if tag in ("img", "iframe", "object", "base", "form")] == []
    assert [tag for tag, _ in found.tags].count("script") == 1
    links = [at.get(name) or "" for _, at in found.tags for name in ("src", "href", "action")]
    assert [link for link in links if link and not link.startswith("#s")] == []
    assert not [name for _, at in found.tags for name in at if name.startswith("on")]
    return found


def headings(found: Outline) -> list[str]:
    return [text for text in found.texts if text in SECTIONS]


SECTIONS = (
    "Overview", "Found architectures", "Best architectures", "Progress", "Trade-off", "Parallel coordinates",
    "Importance of decisions", "Learning curves", "Failures", "Limits", "Metrics", "Probabilities",
    "Monitors", "Decisions", "Constraints", "Load it again",
)  # fmt: skip


def history() -> History:
    """Twelve trials with curves, one that failed and one that broke a limit, with hostile texts."""
    space = toy.Chain().decision_space
    names = ["one", "two", "three"]
    trials = []
    for number in range(12):
        arch = {f"layer{i}": names[number // 3**i % 3] for i in range(3)}
        acc = 0.1 * (number % 3) + 0.01 * number
        reports = tuple(Report(epoch, {"acc": acc * (epoch + 1) / 3}) for epoch in range(3))
        metrics = {"acc": acc, "params": 100.0 + number}
        trials.append(Trial(number, arch, 0, "done", metrics=metrics, reports=reports, duration=2.0))
    trials.append(
        Trial(12, trials[0].arch, 0, "failed", error=f"Traceback (most recent call last):\n{HOSTILE}")
    )
    trials.append(Trial(13, trials[0].arch, 0, "infeasible", error="params at most 50, but it has 100"))
    return History(space, [Maximize("acc"), Minimize("params")], trials)


def record(**more: Any) -> dict[str, Any]:
    return {"strategy": {"class": f"x.{HOSTILE}"}, "space": {"class": "y.Net"}, "seed": HOSTILE, **more}


def course() -> Course:
    tables = [{"normal": [[0.5 - 0.1 * e, 0.5 + 0.1 * e], [0.5, 0.5]]} for e in range(3)]
    epochs = tuple(
        Epoch(
            0, e, 1.5, {"val_loss": 1.0 - 0.1 * e, HOSTILE: 1.0}, tables[e], {"skip_ratio/normal": [0.25]},
            [{"epoch": e, "group": "normal", "row": HOSTILE, "operation": "skip", "score": 0.5}],
        )
        for e in range(3)
    )  # fmt: skip
    groups = {"normal": (("0->2", HOSTILE), ("skip", "conv"))}
    return Course((Stage(0, 5, groups),), epochs, "", ({HOSTILE: HOSTILE, "a": "b"},))


@pytest.mark.parametrize(("most", "end"), [(0.09, "0.1"), (0.19, "0.2"), (0.3, "0.5"), (0.6, "1")])
def test_the_scale_of_probabilities_ends_above_the_largest(most: float, end: str) -> None:
    tables = {"normal": [[0.01, most], [0.05, 0.05]]}
    told = course()
    flat = dataclasses.replace(
        told, epochs=tuple(dataclasses.replace(epoch, tables=tables) for epoch in told.epochs)
    )
    found = outline(page(Contents("/runs/x", "running", record(), None, flat)))
    assert f"Probabilities over the epochs, from 0 to {end}" in found.texts


def test_a_search_by_trials_has_all_sections() -> None:
    limits = {"limits": ["params at most 50"]}
    found = outline(page(Contents("/runs/x", "finished", record(**limits), history(), best=[{"a": HOSTILE}])))
    assert set(headings(found)) == {
        "Overview", "Found architectures", "Best architectures", "Progress", "Trade-off",
        "Parallel coordinates", "Importance of decisions", "Learning curves", "Failures", "Limits",
        "Load it again",
    }  # fmt: skip
    whole = "".join(found.texts)
    assert "1 trials failed." in whole
    assert "<script>alert('x')</script>" in whole  # as text
    assert "12 done, 1 failed, 1 infeasible" in whole
    assert "24 s in trials; 2 s for one" in whole
    tips = [text for text in found.texts if text.startswith("trial 11: acc 0.31, params 111")]
    assert tips  # under the pointer, in every chart of trials
    marked = {at["data-trial"] for _, at in found.tags if "data-trial" in at}
    assert marked == {str(number) for number in range(12)}


def test_a_one_shot_search_has_all_sections() -> None:
    extras = {
        "strategy": {"class": "SGAS", "extras": [{"metric": "params", "target": 2000.0, "form": "above"}]}
    }
    contents = Contents("/runs/x", "running", record() | extras, None, course(), best=course().best)
    found = outline(page(contents))
    assert set(headings(found)) == {
        "Overview", "Found architectures", "Metrics", "Probabilities", "Monitors", "Decisions", "Constraints",
        "Load it again",
    }  # fmt: skip
    whole = "".join(found.texts)
    assert "3 of 5" in whole
    assert "4.5 s; 1.5 s for an epoch; about 3 s left" in whole


def test_a_run_with_nothing_yet_has_a_report() -> None:
    empty = History(toy.Chain().decision_space, [Maximize("acc")])
    assert "No trial has been measured yet." in page(Contents("x", "running", {}, empty))
    outline(page(Contents("x", "not begun", {})))


def test_a_policy_allows_the_pages_own_script_alone() -> None:
    import base64
    import hashlib

    text = page(Contents("x", "finished", {}, history()))
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in text


def test_best_so_far() -> None:
    assert best_so_far([1.0, 3.0, 2.0, math.nan, 4.0]) == [1, 3, 3, 3, 4]


def test_quantiles_of_random_search_are_those_of_all_orders() -> None:
    scores = [5.0, 1.0, 4.0, 2.0, 3.0]
    for share in (0.1, 0.5, 0.9):
        found = random_quantiles(scores, 5, share)
        for k in range(1, 6):
            best = sorted(max(chosen) for chosen in combinations(scores, k))
            expected = best[max(0, math.ceil(share * len(best) - 1e-9) - 1)]
            assert found[k - 1] == expected, (share, k)
    assert random_quantiles(scores, 99, 0.5)[-1] == 5.0


def test_importance_of_a_decision_that_explains_all_and_of_one_that_explains_nothing() -> None:
    archs = [{"a": a, "b": b} for a in (0, 1) for b in (0, 1) for _ in range(2)]
    assert importance(archs, [float(arch["a"]) for arch in archs]) == [("a", 1.0), ("b", 0.0)]
    # Two groups of 2 with means 1 and 3 and squares within of 2 each: between 4, m = 2, (4 - 2) / (8 + 2).
    ((_, share),) = importance([{"a": 0}, {"a": 0}, {"a": 1}, {"a": 1}], [0.0, 2.0, 2.0, 4.0])
    assert share == pytest.approx(0.2)


def test_an_interval_is_an_axis_and_five_parts() -> None:
    """Values 0 to 19 of a range from 0 to 20, of which the first half scores 0 and the second 1."""
    space = DecisionSpace((Site(Interval("x", 0, 20)),))
    trials = [Trial(n, {"x": float(n)}, 0, "done", metrics={"a": float(n >= 8)}) for n in range(20)]
    searched = History(space, [Maximize("a")], trials)
    assert ranked_importance(searched) == [("x", pytest.approx(1.0))]  # 8 is the end of the second fifth
    scene = coordinates(searched)
    assert scene is not None
    texts = [mark.text for mark in scene.marks if isinstance(mark, Text)]
    assert texts[:3] == ["x", "0", "20"]


def test_durations() -> None:
    assert [duration(s) for s in (0.123, 59, 61, 3600)] == ["0.123 s", "59 s", "1 min 1 s", "1 h 0 min"]


def test_the_report_is_rewritten_seldom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a report of one second, the next comes fifty later; a broken one warns and ends nothing."""
    clock = [100.0]
    monkeypatch.setattr("spacelang.experiment.report_file.time.monotonic", lambda: clock[0])
    file = ReportFile(RunFolder(tmp_path), toy.Chain())
    written = []

    def slow(contents: Any) -> str:
        clock[0] += 1.0
        written.append(clock[0])
        return "page"

    monkeypatch.setattr("spacelang.experiment.report_file.page", slow)
    with file.running():
        file.update()
        assert written == []
        for clock[0] in (104.0, 105.0, 110.0, 155.9, 156.0):
            file.update()
    assert written == [106.0, 157.0, 158.0]  # the last at the end

    def broken(contents: Any) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr("spacelang.experiment.report_file.page", broken)
    with pytest.warns(UserWarning, match=r"report\.html could not be written: ZeroDivisionError"):
        file.write()


def test_every_search_leaves_a_report(tmp_path: Path) -> None:
    run = Experiment(toy.Chain(), Functional(toy.product), Random(), directory=tmp_path, max_trials=5)
    run.run()
    found = outline((tmp_path / "report.html").read_text())
    assert "finished" in found.texts
    assert any("random search: median" in text for text in found.texts)


# -- in a browser ------------------------------------------------------------------------------------------

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def shot(page: Path, picture: Path, *options: str) -> str:
    """Take a picture of a page; return what the console said."""
    assert CHROMIUM is not None
    arguments = [
        "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1100,1400",
        "--enable-logging=stderr", "--v=0", f"--user-data-dir={picture.with_suffix('')}",
        f"--screenshot={picture}", *options, page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run([CHROMIUM, *arguments], capture_output=True, text=True, timeout=120, check=False)
    return "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    contents = {
        "trials": Contents("/runs/x", "finished", record(), history(), best=[{"a": 1}]),
        "course": Contents("/runs/x", "running", record(), None, course(), best=course().best),
    }
    paths = {name: folder / f"{name}.html" for name in contents}
    for name, path in paths.items():
        path.write_text(page(contents[name]), encoding="utf-8")
    return paths


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
@pytest.mark.parametrize("name", ["trials", "course"])
def test_a_browser_shows_it_light_and_dark_without_errors(
    name: str, pages: dict[str, Path], tmp_path: Path
) -> None:
    import numpy as np
    from matplotlib.image import imread

    means = {}
    for mode, scheme in (("light", 1), ("dark", 0)):
        picture = tmp_path / f"{mode}.png"
        assert shot(pages[name], picture, f"--blink-settings=preferredColorScheme={scheme}") == ""
        pixels = imread(picture)[..., :3]
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50  # not one colour
        means[mode] = float(pixels.mean())
    assert means["light"] > 0.8
    assert means["dark"] < 0.3


def test_repeated_architectures_are_one(tmp_path: Path) -> None:
    trials = [dataclasses.replace(trial, number=100 + trial.number) for trial in history().done]
    doubled = history()
    for trial in trials:
        doubled.add(trial)
    found = outline(page(Contents("x", "finished", {}, doubled)))
    assert "24 done, 1 failed, 1 infeasible" in found.texts


def test_grid_has_no_random_band(tmp_path: Path) -> None:
    run = Experiment(toy.Chain(), Functional(toy.product), Grid(), directory=tmp_path, max_trials=5)
    run.run()
    assert "random search: median" not in (tmp_path / "report.html").read_text()
