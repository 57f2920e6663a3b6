"""Studies: many searches in one database, told apart by name and recognised by what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spacelang import Experiment, SpaceError
from spacelang.evaluators import Functional
from spacelang.files import load_yaml
from spacelang.strategies.multi_trial import Random, RegularizedEvolution
from spacelang.trials import Ledger, Minimize, Proposal

from ..toys import trials as toy


def search(directory: Path, ledger: str | None, **settings: Any) -> Experiment:
    space = settings.pop("space", None) or toy.Chain()
    strategy = settings.pop("strategy", None) or Random()
    settings = {"max_trials": 4, **settings}
    return Experiment(space, Functional(toy.noisy), strategy, directory=directory, ledger=ledger, **settings)


@pytest.mark.parametrize(
    ("other", "differs"),
    [
        ({"seed": 1}, "seed was 0, now 1"),
        ({"space": toy.Conditional()}, "space.class was 'tests.toys.trials.Chain', now '.*Conditional'"),
        ({"space": toy.Chain(2)}, "space.arguments.layers was missing, now 2\n  space.decisions is another"),
        (
            {"objectives": [Minimize("default")]},
            "objectives was .*maximize default.*, now .*minimize default",
        ),
        ({"strategy": RegularizedEvolution()}, "strategy.class was .*Random', now .*RegularizedEvolution'"),
    ],
    ids=["seed", "space", "arguments", "objectives", "strategy"],
)
def test_two_searches_on_one_database_are_never_mixed(
    tmp_path: Path, url: str, other: dict[str, Any], differs: str
) -> None:
    first = search(tmp_path / "first", url)
    first.run()
    second = search(tmp_path / "second", url, **other)
    for resume in (False, True):
        with pytest.raises(
            SpaceError, match=rf"(?s)another search under the name 'search':\n  {differs}.*study="
        ):
            second.run(resume)
    assert not (tmp_path / "second" / "experiment.yaml").exists()
    named = search(tmp_path / "second", url, study="second", **other)
    named.run()
    assert len(named.history) == len(first.history) == 4
    assert not named.space.decision_space.problems(named.best)
    for name, run in (("search", first), ("second", named)):
        assert [trial.arch for trial in Ledger(url, name).trials()] == [trial.arch for trial in run.history]
    assert load_yaml(tmp_path / "second" / "experiment.yaml")["study"] == "second"


def test_the_same_search_is_continued_only_when_asked(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    first = search(tmp_path / "first", url)
    first.run()
    with pytest.raises(
        SpaceError, match=r"already holds 4 trials of this search.*run\(resume=True\).*study="
    ):
        search(tmp_path / "second", url).run()
    second = search(tmp_path / "second", url, max_trials=6)
    second.run(resume=True)
    assert toy.trials_of(second)[:4] == toy.trials_of(first)
    assert len(second.history) == 6


def test_a_study_is_opened_by_its_name_and_listed_where_it_is_ambiguous(url: str) -> None:
    with pytest.raises(SpaceError, match=r"no (ledger|study)"):
        Ledger(url)
    for name in ("small", "large"):
        Ledger(url, name, {"seed": 1}).add(0, Proposal({"layer": name}), seed=1)
    with pytest.raises(SpaceError, match="holds 2 studies, 'small', 'large'; pass study=NAME"):
        Ledger(url)
    with pytest.raises(SpaceError, match=r"no study 'smal'; it has 'small', 'large'\. Closest: 'small'"):
        Ledger(url, "smal")
    assert [trial.arch for trial in Ledger(url, "large").trials()] == [{"layer": "large"}]


def test_a_study_without_a_trial_is_begun_again(url: str) -> None:
    """A run that was killed before its first trial left nothing; if it still lives, it finds that out."""
    early = Ledger(url, "search", {"seed": 1})
    late = Ledger(url, "search", {"seed": 2})
    assert late.add(0, Proposal({"layer": "one"}), seed=1) is not None
    with pytest.raises(SpaceError, match="another search has its name now"):
        early.add(0, Proposal({"layer": "two"}), seed=1)
    assert [trial.arch for trial in Ledger(url).trials()] == [{"layer": "one"}]
    with pytest.raises(SpaceError, match="seed was 2, now 1"):
        Ledger(url, "search", {"seed": 1})


def test_claims_of_one_study_leave_the_others_alone(url: str) -> None:
    one, two = (Ledger(url, name, {}) for name in ("one", "two"))
    one.add(0, Proposal({"layer": "one"}), seed=1)
    assert two.claim("a", 60) is None
    assert two.count() == 0
    trial = one.claim("a", 60)
    assert trial is not None
    two.add(0, Proposal({"layer": "two"}), seed=1, owner="a", lease=60)
    assert two.release(0, "a")
    assert [claim.number for claim in one.claims()] == [0]
    assert two.claims() == []


@pytest.mark.parametrize("name", ["", "x" * 201, 3])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: Any) -> None:
    with pytest.raises(SpaceError, match="must be a name of 1 to 200 characters"):
        search(tmp_path, None, study=name)
