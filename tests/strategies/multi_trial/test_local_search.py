"""Local search: full neighbourhoods, moves to the best, and restarts."""

from __future__ import annotations

from spacelang.strategies import LocalSearch
from spacelang.trials import History, Trial

from ...toys.trials import Chain
from .drive import search

DIGITS = {"one": 0, "two": 1, "three": 2}


def digits(trial: Trial) -> list[int]:
    return [DIGITS[value] for value in trial.arch.values()]


def total(trial: Trial) -> dict[str, float]:
    return {"value": float(sum(digits(trial)))}


def two_hills(trial: Trial) -> dict[str, float]:
    """A hill at 000 and, apart from it, the summit at 22...2."""
    d = digits(trial)
    return {"value": 100.0 if set(d) == {2} else -float(sum(d))}


def climbs(history: History) -> list[list[Trial]]:
    found: dict[int, list[Trial]] = {}
    for trial in history:
        found.setdefault(trial.note["climb"], []).append(trial)
    return list(found.values())


def test_all_neighbours_are_tried_before_a_move() -> None:
    space = Chain(4)
    history = search(LocalSearch(), space, total, 30)
    first = climbs(history)[0]
    center, seen = first[0], {str(first[0].arch)}
    moves = 0
    position = 1
    while True:
        neighbours = [arch for arch in space.neighbours(center.arch) if str(arch) not in seen]
        tried = first[position : position + len(neighbours)]
        assert [trial.arch for trial in tried] == neighbours[: len(tried)]
        assert all(trial.note["center"] == center.number for trial in tried)
        seen |= {str(trial.arch) for trial in tried}
        position += len(tried)
        around = [t for t in first if str(t.arch) in {str(a) for a in space.neighbours(center.arch)}]
        best = max(around, key=history.score)
        if history.score(best) <= history.score(center):
            break
        center, moves = best, moves + 1
    assert moves >= 1
    assert digits(center) == [2, 2, 2, 2]  # the sum of digits has one summit
    assert position == len(first)


def test_neighbours_have_the_center_as_parent() -> None:
    history = search(LocalSearch(), Chain(4), total, 30)
    children = [trial for trial in history if "parent" in trial.note]
    assert len(children) > 20
    for trial in children:
        assert trial.arch in list(Chain(4).neighbours(history[trial.note["parent"]].arch))


def test_it_begins_again_until_everything_is_known() -> None:
    history = search(LocalSearch(), Chain(3), two_hills, 99)
    assert len(history) == history.distinct == 27
    assert len(climbs(history)) >= 2
    assert history.best_trial is not None
    assert digits(history.best_trial) == [2, 2, 2]
    starts = [climb[0] for climb in climbs(history)]
    assert all("center" not in trial.note for trial in starts)


def test_failures_are_no_place_to_go() -> None:
    def fragile(trial: Trial) -> dict[str, float] | None:
        return None if digits(trial)[0] == 2 else total(trial)

    history = search(LocalSearch(), Chain(3), fragile, 99)
    assert len(history) == 27
    centers = {trial.note["center"] for trial in history if "center" in trial.note}
    assert all(history[number].state == "done" for number in centers)


def test_with_many_workers_the_walk_waits_for_the_last_neighbour() -> None:
    space = Chain(4)
    history = search(LocalSearch(), space, total, 70, workers=5)
    for trial in history:
        if "center" in trial.note and trial.number + 5 < len(history):
            center = history[trial.note["center"]]
            assert center.number < trial.number
    by_center: dict[int, list[Trial]] = {}
    for trial in history:
        if "center" in trial.note:
            by_center.setdefault(trial.note["center"], []).append(trial)
    first_climb = [c for c, ts in by_center.items() if ts[0].note["climb"] == 0]
    scores = [history.score(history[c]) for c in first_climb]
    assert scores == sorted(scores)
    assert digits(history[first_climb[-1]]) == [2, 2, 2, 2]
