"""Ledger: one table of trials in a database, claimed by workers for the time of a lease."""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ..errors import SpaceError
from .trial import Proposal, Report, Trial


def new_owner() -> str:
    """Return a name for this process that no other process has or had."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


def dead_owners(owners: Iterable[str]) -> list[str]:
    """Return the owners whose local process has died."""
    return [owner for owner in owners if _is_dead(owner)]


def _is_dead(owner: str) -> bool:
    host, _, rest = owner.partition(":")
    pid = rest.partition(":")[0]
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


SCHEMA = 3

_metadata = sa.MetaData()

TRIALS = sa.Table(
    "trials",
    _metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("arch", sa.Text, nullable=False),  # JSON, as are note, overrides, metrics and reports
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("max_epochs", sa.Integer),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("overrides", sa.Text, nullable=False),
    sa.Column("metrics", sa.Text, nullable=False),
    sa.Column("reports", sa.Text, nullable=False),
    sa.Column("error", sa.Text, nullable=False),
    sa.Column("duration", sa.Float, nullable=False),
    sa.Column("owner", sa.String(128), nullable=False),
    sa.Column("lease_until", sa.Float, nullable=False),  # seconds since 1970
    sa.Column("schema", sa.Integer, nullable=False),
)


class Ledger:
    """A table of trials that survives a crash and that many processes may work on.

    A worker claims a trial for a time, its lease, and renews the lease while it works. A trial whose lease
    ran out is claimed by the first that asks; only its present owner can finish it.

    Args:
        url: URL of a database, such as "postgresql+psycopg://host/name", or the path of an SQLite file.
            SQLite runs in WAL mode; its file must not be on a network file system.
        clock: Returns seconds since 1970; machines that share a ledger must agree on them to within a lease.

    Raises:
        SpaceError: The database cannot be opened, or its table is of another version.
    """

    def __init__(self, url: str | Path, *, clock: Callable[[], float] = time.time) -> None:
        self.url = _as_url(url)
        self._clock = clock
        try:
            self._engine = sa.create_engine(self.url)
            if self._engine.dialect.name == "sqlite":
                sa.event.listen(self._engine, "connect", _prepare_sqlite)
            self._create_table()
        except (sa.exc.SQLAlchemyError, ImportError) as error:
            raise SpaceError(f"the ledger {hidden_password(self.url)!r} cannot be opened: {error}") from error
        self._check_schema()

    def _create_table(self) -> None:
        try:
            _metadata.create_all(self._engine)
        except sa.exc.DBAPIError:  # perhaps since it looked, another process has created it
            _metadata.create_all(self._engine)

    def _check_schema(self) -> None:
        columns = {column["name"] for column in sa.inspect(self._engine).get_columns("trials")}
        found = None
        if "schema" in columns:
            with self._engine.connect() as connection:
                found = connection.execute(sa.select(TRIALS.c.schema).limit(1)).scalar()
        if (found is not None and found != SCHEMA) or columns != set(TRIALS.c.keys()):
            raise SpaceError(
                f"the ledger {hidden_password(self.url)!r} has version {found} of the table 'trials'; this "
                f"spacelang reads version {SCHEMA}. Use the one that wrote it, or another folder or URL."
            )

    # -- reading ---------------------------------------------------------------------------------------

    def trials(self, start: int = 0) -> list[Trial]:
        """Return the trials from number `start` on, by number."""
        query = sa.select(TRIALS).where(TRIALS.c.number >= start).order_by(TRIALS.c.number)
        with self._engine.connect() as connection:
            return [_trial(dict(row._mapping)) for row in connection.execute(query)]

    def owners(self) -> list[str]:
        """Return the owners of running trials; some of them may have been killed."""
        query = sa.select(TRIALS.c.owner).where(TRIALS.c.state == "running").distinct()
        with self._engine.connect() as connection:
            return list(connection.execute(query).scalars())

    # -- writing: each a transaction of its own --------------------------------------------------------

    def add(
        self,
        number: int,
        proposal: Proposal,
        *,
        seed: int,
        owner: str = "",
        lease: float = 0.0,
        infeasible: str = "",
        metrics: Mapping[str, float] | None = None,
    ) -> Trial | None:
        """Enter a trial, claimed by `owner` for `lease` seconds if one is named; None if the number is taken.

        Args:
            number: Number of the trial, the next one.
            proposal: The architecture to try.
            seed: Seed of the trial.
            owner: Name of the worker that claims it; nobody by default.
            lease: Seconds of the claim.
            infeasible: Reason not to train the architecture; empty to train it.
            metrics: Metrics known before training.
        """
        state = "infeasible" if infeasible else "running" if owner else "waiting"
        values = {
            "number": number,
            "arch": _dump(proposal.arch),
            "seed": seed,
            "state": state,
            "max_epochs": proposal.max_epochs,
            "note": _dump(proposal.note),
            "overrides": _dump(proposal.overrides),
            "metrics": _dump(metrics or {}),
            "reports": "[]",
            "error": infeasible,
            "duration": 0.0,
            "owner": owner,
            "lease_until": self._clock() + lease if owner else 0.0,
            "schema": SCHEMA,
        }
        try:
            with self._engine.begin() as connection:
                connection.execute(sa.insert(TRIALS).values(values))
        except sa.exc.IntegrityError:  # another process entered it first
            return None
        return _trial(values)

    def claim(self, owner: str, lease: float, *, dead: Iterable[str] = ()) -> Trial | None:
        """Claim the first trial that waits, whose lease ran out, or whose owner is known to be dead.

        Returns:
            The trial, or None.
        """
        now = self._clock()
        left = sa.or_(TRIALS.c.lease_until < now, TRIALS.c.owner.in_(list(dead)))
        free = sa.or_(TRIALS.c.state == "waiting", sa.and_(TRIALS.c.state == "running", left))
        first = sa.select(TRIALS.c.number, TRIALS.c.owner, TRIALS.c.lease_until).where(free)
        while True:
            with self._engine.begin() as connection:
                row = connection.execute(first.order_by(TRIALS.c.number).limit(1)).one_or_none()
                if row is None:
                    return None
                # Atomic: of several workers that saw the row, one finds it as it was.
                unchanged = sa.and_(
                    TRIALS.c.number == row.number,
                    TRIALS.c.owner == row.owner,
                    TRIALS.c.lease_until == row.lease_until,
                    free,
                )
                values = {"state": "running", "owner": owner, "lease_until": now + lease, "reports": "[]"}
                done = connection.execute(sa.update(TRIALS).where(unchanged).values(values))
                if done.rowcount == 1:
                    claimed = sa.select(TRIALS).where(TRIALS.c.number == row.number)
                    return _trial(dict(connection.execute(claimed).one()._mapping))

    def renew(self, number: int, owner: str, lease: float, reports: Iterable[Report] = ()) -> bool:
        """Extend a lease and store the reports; return whether the trial is still the owner's."""
        values = {"lease_until": self._clock() + lease, "reports": _dump_reports(reports)}
        return self._update_owned(number, owner, values)

    def finish(self, trial: Trial) -> bool:
        """Store how a trial ended; return whether it was still its owner's. If not, nothing is stored."""
        values = {
            "state": trial.state,
            "metrics": _dump(trial.metrics),
            "reports": _dump_reports(trial.reports),
            "error": trial.error,
            "duration": trial.duration,
        }
        return self._update_owned(trial.number, trial.owner, values)

    def release(self, number: int, owner: str) -> bool:
        """Release a trial for anyone to claim; return whether it was the owner's."""
        return self._update_owned(number, owner, {"state": "waiting", "owner": "", "lease_until": 0.0})

    def _update_owned(self, number: int, owner: str, values: Mapping[str, Any]) -> bool:
        mine = sa.and_(TRIALS.c.number == number, TRIALS.c.owner == owner, TRIALS.c.state == "running")
        with self._engine.begin() as connection:
            return connection.execute(sa.update(TRIALS).where(mine).values(**values)).rowcount == 1

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


def hidden_password(url: str) -> str:
    """Return a database URL, or the URL of an SQLite file, without its password."""
    return sa.make_url(_as_url(url)).render_as_string(hide_password=True)


def _as_url(url: str | Path) -> str:
    return f"sqlite:///{url}" if isinstance(url, Path) or "://" not in url else url


def _prepare_sqlite(connection: Any, record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")  # many readers, one writer; a kill loses nothing committed
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA busy_timeout=30000")
    cursor.close()


def _trial(row: Mapping[Any, Any]) -> Trial:
    return Trial(
        number=row["number"],
        arch=json.loads(row["arch"]),
        seed=row["seed"],
        state=row["state"],
        max_epochs=row["max_epochs"],
        note=json.loads(row["note"]),
        overrides=json.loads(row["overrides"]),
        metrics=json.loads(row["metrics"]),
        reports=tuple(Report(epoch, metrics) for epoch, metrics in json.loads(row["reports"])),
        error=row["error"],
        duration=row["duration"],
        owner=row["owner"],
    )


def _dump(value: Any) -> str:
    return json.dumps(value if isinstance(value, dict | list) else dict(value))


def _dump_reports(reports: Iterable[Report]) -> str:
    return json.dumps([[report.epoch, dict(report.metrics)] for report in reports])
