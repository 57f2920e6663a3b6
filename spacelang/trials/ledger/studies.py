"""Studies: the searches that share a database, told apart by name and recognised by what they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ...errors import SpaceError, closest, quoted
from ...files import differences
from .database import Database
from .schema import SCHEMA, STUDIES, TRIALS

DEFAULT_STUDY = "search"


@dataclass(frozen=True)
class Study:
    """One search in a database.

    Attributes:
        id: Its number in the database.
        name: Its name, unique in the database.
        identity: Settings that must be equal for two runs to be of one search.
    """

    id: int
    name: str
    identity: Mapping[str, Any]


def studies(database: Database) -> list[Study]:
    """Return all studies of a database, the oldest first."""
    with database.transaction() as connection:
        rows = connection.execute(sa.select(STUDIES).order_by(STUDIES.c.id)).all()
    return [Study(row.id, row.name, json.loads(row.identity)) for row in rows]


def find(database: Database, name: str | None) -> Study:
    """Return the study of a name, or, without a name, the only one.

    Raises:
        SpaceError: There is none, or there are several; the message lists them.
    """
    known = {study.name: study for study in studies(database)}
    if name is None and len(known) == 1:
        (name,) = known
    if name in known:
        return known[name]
    if name is None and known:
        raise SpaceError(
            f"the ledger {database.name!r} holds {len(known)} studies, {quoted(known)}; pass study=NAME."
        )
    wanted = "no study" if name is None else f"no study {name!r}"
    have = f"; it has {quoted(known)}.{closest(name, known)}" if known else " yet."
    raise SpaceError(f"the ledger {database.name!r} holds {wanted}{have}")


def join(database: Database, name: str, identity: Mapping[str, Any], now: float) -> Study:
    """Return the study of a name, begun here if there is none; one without a trial is begun again.

    Raises:
        SpaceError: The name belongs to another search; the message says where they differ.
    """
    text = json.dumps(dict(identity), sort_keys=True)
    while True:
        study = _named(database, name)
        if study is not None and json.dumps(study.identity, sort_keys=True) == text:
            return study
        if study is not None and not _removed_if_empty(database, study):
            lines = "\n  ".join(differences(study.identity, json.loads(text)).values())
            raise SpaceError(
                f"the ledger {database.name!r} holds another search under the name {name!r}:\n  {lines}\n"
                "Continue it with the same settings, or use another directory, and another study='name' in a "
                "shared database."
            )
        row = {"name": name, "identity": text, "schema": SCHEMA, "created": now}
        try:
            with database.transaction() as connection:
                connection.execute(sa.insert(STUDIES).values(row))
        except sa.exc.IntegrityError:
            continue  # another process has begun it first


def _named(database: Database, name: str) -> Study | None:
    with database.transaction() as connection:
        row = connection.execute(sa.select(STUDIES).where(STUDIES.c.name == name)).one_or_none()
    return None if row is None else Study(row.id, row.name, json.loads(row.identity))


def _removed_if_empty(database: Database, study: Study) -> bool:
    """Remove a study that has no trial; return whether it is gone.

    A search that has begun it and not yet entered a trial finds that out when it does: the id of the study is
    never used again.
    """
    trials = sa.select(TRIALS.c.number).where(TRIALS.c.study == study.id).exists()
    try:
        with database.transaction() as connection:
            connection.execute(sa.delete(STUDIES).where(STUDIES.c.id == study.id, ~trials))
    except sa.exc.IntegrityError:  # a trial came in between
        return False
    return _named(database, study.name) != study
