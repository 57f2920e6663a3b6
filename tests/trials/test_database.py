"""Databases of ledgers: any path, no passwords in sight, and one sentence for every way to fail."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from torch import nn

from spacelang import Experiment, SpaceError
from spacelang.evaluators import Functional
from spacelang.experiment import TrialSettings
from spacelang.files import load_yaml
from spacelang.strategies.multi_trial import Random
from spacelang.trials import Ledger, Proposal, trial_search
from spacelang.trials.ledger import hidden_password
from spacelang.trials.ledger.database import _prepare_sqlite
from spacelang.trials.ledger.database_url import database_url

from ..toys import trials as toy


def search(directory: Path, function: Callable[..., Any] = toy.product, **settings: Any) -> Experiment:
    return Experiment(toy.Chain(), Functional(function), Random(), directory=directory, **settings)


@pytest.mark.parametrize("name", ["a?b", "a#b", "a%41b", "a b", "größe-研究", "file:x", "a%2Fb", "a@b&c=d"])
def test_a_run_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    run = search(tmp_path / name, max_trials=1)
    run.run()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name / "trials.db").is_file()
    again = search(tmp_path / name, max_trials=2)
    again.run(resume=True)
    assert len(again.history) == 2


def test_a_relative_path_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    ledger = Ledger("sqlite:///shared.db", identity={})
    monkeypatch.chdir(tmp_path / "elsewhere")
    ledger.close()  # its connections are opened again
    ledger.add(0, Proposal({}), seed=1)
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert Ledger(tmp_path / "shared.db").count() == 1


# -- several processes that begin at once


def test_another_process_creates_each_table_a_moment_earlier(tmp_path: Path) -> None:
    """As if it ran between the look for the table and its creation, each time."""
    path, earlier = tmp_path / "shared.db", []

    def create_first(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "CREATE TABLE" in statement and statement not in earlier:
            earlier.append(statement)
            with sqlite3.connect(path) as other:
                other.execute(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", create_first)
    try:
        ledger = Ledger(path, identity={})
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", create_first)
    assert len(earlier) == 2
    ledger.add(0, Proposal({}), seed=1)
    assert ledger.count() == 1


def test_a_new_file_that_another_process_prepares_is_waited_for() -> None:
    said = ["database is locked", "database is locked"]

    class Connection:
        """Its file is locked at first."""

        def cursor(self) -> Connection:
            return self

        def execute(self, statement: str) -> None:
            if said and "journal_mode" in statement:
                raise sqlite3.OperationalError(said.pop())

        def close(self) -> None:
            assert not said

    _prepare_sqlite(Connection(), None)
    said.append("disk I/O error")
    with pytest.raises(sqlite3.OperationalError, match="disk"):
        _prepare_sqlite(Connection(), None)


# -- passwords


SECRET = "s3cret"


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql+psycopg://me:{SECRET}@127.0.0.1:1/name",
        f"postgresql+psycopg://127.0.0.1:1/name?user=me&password={SECRET}",
        f"postgresql+psycopg://me@127.0.0.1:1/name?sslpassword={SECRET}",
        f"postgresql+psycopg://me:p@{SECRET}@127.0.0.1:1/name",
        f"postgresql+psycopg://me:p@/{SECRET}@127.0.0.1:1/name",
        f"postgresql+psycopg://me/x:{SECRET}@127.0.0.1:1/name",
        f"postgresql+psycopg://127.0.0.1:{SECRET}/name",
        f"nosuchdatabase://me:{SECRET}@127.0.0.1/name",
        f"nosuchdatabase://me@127.0.0.1/name?token={SECRET}",
    ],
)
def test_no_error_shows_a_password(tmp_path: Path, url: str) -> None:
    run = search(tmp_path / "run", ledger=url)
    with pytest.raises(SpaceError) as error:
        run.run()
    assert SECRET not in str(error.value)
    seen: BaseException | None = error.value
    while seen is not None:  # the traceback shows what led to it, unless that is suppressed
        assert SECRET not in str(seen)
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    assert SECRET not in repr(TrialSettings(ledger=url))
    assert not (tmp_path / "run" / "experiment.yaml").exists()


@pytest.mark.parametrize("secret", ["p@w", "p@w@x", "p@/w"])
def test_an_at_sign_in_a_password_is_refused_with_what_to_write(secret: str) -> None:
    with pytest.raises(SpaceError, match=r"Write '@' as %40 and '/' as %2F"):
        database_url(f"postgresql+psycopg://me:{secret}@host/name")
    url = database_url("postgresql+psycopg://me:p%40w@host/name")
    assert (url.password, url.host) == ("p@w", "host")
    assert hidden_password(url) == "postgresql+psycopg://me:***@host/name"


def test_passwords_are_hidden_wherever_they_stand() -> None:
    query = "application_name=x&password=a%26b&sslpassword=c"
    assert hidden_password(f"postgresql+psycopg://me:x@host/name?{query}") == (
        "postgresql+psycopg://me:***@host/name?application_name=x&password=***&sslpassword=***"
    )


def test_experiment_yaml_holds_no_password(tmp_path: Path, server: str) -> None:
    with sa.create_engine(server).begin() as connection:
        connection.execute(sa.text("DROP TABLE IF EXISTS trials, studies"))
    url = f"{server}&password={SECRET}"
    search(tmp_path, ledger=url, max_trials=1).run()
    text = (tmp_path / "experiment.yaml").read_text()
    assert SECRET not in text
    assert "password=***" in load_yaml(tmp_path / "experiment.yaml")["ledger"]  # type: ignore[index, call-overload, operator]
    assert SECRET not in repr(Ledger(url))


# -- failures


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql+psycopg://host:many/name", "its scheme or its port is malformed"),
        ("nosuchdatabase://host/name", "unknown kind of database, 'nosuchdatabase'"),
        ("sqlite://", "would be lost with this process; name a file"),
        ("sqlite:////no/such/folder/x.db", "'/no/such/folder' is not a folder"),
    ],
)
def test_a_url_that_cannot_be_used_is_one_sentence(tmp_path: Path, url: str, words: str) -> None:
    with pytest.raises(SpaceError, match=words):
        search(tmp_path, ledger=url).run()


def test_a_file_in_place_of_a_folder_and_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(
            SpaceError, match=rf"the run folder '{place}' cannot be made: .* another directory"
        ):
            search(place).run()
    (tmp_path / "run" / "trials.db").mkdir(parents=True)
    with pytest.raises(SpaceError, match=r"trials.db' is a folder"):
        search(tmp_path / "run").run()


def at_third(action: Callable[[], object]) -> Callable[[nn.Module], float]:
    """An evaluator that does something in its third trial."""
    seen: list[nn.Module] = []

    def measure(model: nn.Module) -> float:
        seen.append(model)
        if len(seen) == 3:
            action()
        return toy.product(model)

    return measure


def reporting(action: Callable[[], object]) -> Callable[..., float]:
    """An evaluator that does something before its first report."""

    def measure(model: nn.Module, report: Callable[[dict[str, float], int], None]) -> float:
        action()
        report({"default": 1.0}, 0)
        raise AssertionError("it was told to stop")

    return measure


@pytest.mark.parametrize("what", ["folder", "database", "database before a report"])
def test_a_ledger_that_is_removed_during_the_search(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "run"

    def remove() -> None:
        if what == "folder":
            shutil.rmtree(folder)
        else:
            os.unlink(folder / "trials.db")

    measure = reporting(remove) if "report" in what else at_third(remove)
    with pytest.raises(SpaceError, match=r"run/trials.db' was removed or replaced while it was in use"):
        search(folder, measure, keep_weights=0).run()
    assert not (folder / "trials.db").exists()


def test_a_row_that_is_removed_during_the_search(tmp_path: Path) -> None:
    def remove() -> None:
        with sa.create_engine(f"sqlite:///{tmp_path / 'trials.db'}").begin() as connection:
            connection.execute(sa.text("DELETE FROM trials WHERE number = 2"))

    with pytest.raises(SpaceError, match=r"trial 2 is missing from the ledger '.*trials.db'"):
        search(tmp_path, at_third(remove)).run()
    assert Ledger(tmp_path / "trials.db").claims() == []


def test_a_missing_row_ends_a_resume(tmp_path: Path) -> None:
    search(tmp_path, max_trials=4).run()
    with sa.create_engine(f"sqlite:///{tmp_path / 'trials.db'}").begin() as connection:
        connection.execute(sa.text("DELETE FROM trials WHERE number = 1"))
    with pytest.raises(SpaceError, match=r"trial 1 is missing from the ledger '.*trials.db', study 'search'"):
        search(tmp_path, max_trials=6).run(resume=True)
    assert Ledger(tmp_path / "trials.db").claims() == []


@pytest.mark.parametrize("content", [b"no database " * 1000, b"SQLite format 3\x00" + b"\xff" * 9000])
def test_a_damaged_database_is_named(tmp_path: Path, content: bytes) -> None:
    search(tmp_path, max_trials=1).run()
    for path in tmp_path.glob("trials.db-*"):
        path.unlink()
    (tmp_path / "trials.db").write_bytes(content)
    with pytest.raises(SpaceError, match=r"trials.db' (cannot be opened|failed): .*restore it from a backup"):
        search(tmp_path).run(resume=True)


@pytest.fixture
def full_disk() -> Iterator[Callable[[int], None]]:
    """Lets SQLite's files grow to so many pages and no further; 0 for as large as they like."""
    limit = [0]

    def limited(connection: sa.Connection, *rest: object) -> None:
        if connection.dialect.name == "sqlite":
            connection.connection.driver_connection.execute(  # type: ignore[union-attr]
                f"PRAGMA max_page_count={limit[0] or 2**30}"
            )

    sa.event.listen(sa.Engine, "begin", limited)
    yield lambda pages: limit.__setitem__(0, pages)
    sa.event.remove(sa.Engine, "begin", limited)


@pytest.mark.filterwarnings("ignore:the ledger .* is full; trying again")
def test_a_full_disk_ends_the_search_and_a_resume_loses_nothing(
    tmp_path: Path, full_disk: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_search, "LEASE", 1.0)
    full_disk(8)
    with pytest.raises(SpaceError, match=r"trials.db' failed: database or disk is full. Free some space"):
        search(tmp_path).run()
    full_disk(0)
    monkeypatch.setattr(trial_search, "LEASE", 60.0)
    entered = len(Ledger(tmp_path / "trials.db").trials())
    assert 0 < entered < 27
    whole = search(tmp_path)
    whole.run(resume=True)
    assert whole.history.count("done") == len(whole.history) == 27
