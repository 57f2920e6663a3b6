"""A ledger looked over: integrity, gaps, claims and failures of its trials."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from .database import Database, LedgerDamaged
from .database_url import hidden_password
from .ledger import Claim
from .schema import STUDIES, TRIALS, trial_of
from .studies import find


@dataclass(frozen=True)
class Inspection:
    """The state of a database and of one of its studies.

    Attributes:
        database: Its path, or its URL without passwords.
        damage: Faults of the database itself; empty where it is whole.
        studies: Number of trials of every study in it, by name.
        study: Name of the study that was looked at; the rest is about it.
        counts: Number of trials by state.
        gaps: Numbers whose rows are missing.
        unreadable: Why a row cannot be read, by number.
        claims: Trials that run somewhere.
        failed: Errors of failed trials, by number.
    """

    database: str
    damage: str = ""
    studies: Mapping[str, int] = field(default_factory=dict)
    study: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    gaps: Sequence[int] = ()
    unreadable: Mapping[int, str] = field(default_factory=dict)
    claims: Sequence[Claim] = ()
    failed: Mapping[int, str] = field(default_factory=dict)

    @property
    def is_sound(self) -> bool:
        """Whether the database and every row of the study are whole."""
        return not (self.damage or self.gaps or self.unreadable)


def inspect(place: str | Path, study: str | None = None) -> Inspection:
    """Look a ledger over, without changing it.

    Args:
        place: URL of a database, or path of an SQLite file.
        study: Name of the study to look at; None for the only one.

    Raises:
        SpaceError: There is no ledger, it is of another version, or it has no such study.
    """
    try:
        database = Database(place, create=False)
    except LedgerDamaged as error:
        return Inspection(hidden_password(place), damage=str(error))
    try:
        damage = _damage(database)
        return Inspection(database.name, damage) if damage else _inspected(database, study)
    except LedgerDamaged as error:
        return Inspection(database.name, damage=str(error))
    finally:
        database.close()


def _damage(database: Database) -> str:
    """Return what the database finds wrong with itself; only SQLite is asked."""
    if database.url.get_backend_name() != "sqlite":
        return ""
    with database.transaction() as connection:
        found = list(connection.execute(sa.text("PRAGMA integrity_check")).scalars())
        orphans = connection.execute(sa.text("PRAGMA foreign_key_check")).all()
    problems = [text for text in found if text != "ok"]
    return "; ".join(problems + ["trials without a study"] * bool(orphans))


def _inspected(database: Database, name: str | None) -> Inspection:
    study = find(database, name)
    trials = sa.select(sa.func.count()).where(TRIALS.c.study == STUDIES.c.id).scalar_subquery()
    with database.transaction() as connection:
        sizes = {
            row[0]: row[1]
            for row in connection.execute(sa.select(STUDIES.c.name, trials).order_by(STUDIES.c.id))
        }
        query = sa.select(TRIALS).where(TRIALS.c.study == study.id).order_by(TRIALS.c.number)
        rows = connection.execute(query).mappings().all()
    unreadable = {}
    for row in rows:
        try:
            trial_of(row)
        except (ValueError, TypeError) as error:
            unreadable[row["number"]] = str(error)
    numbers = {row["number"] for row in rows}
    running = [row for row in rows if row["state"] == "running"]
    return Inspection(
        database.name,
        studies=sizes,
        study=study.name,
        counts=Counter(row["state"] for row in rows),
        gaps=[number for number in range(max(numbers, default=-1)) if number not in numbers],
        unreadable=unreadable,
        claims=[Claim(row["number"], row["owner"], row["lease_until"]) for row in running],
        failed={row["number"]: row["error"] for row in rows if row["state"] == "failed"},
    )
