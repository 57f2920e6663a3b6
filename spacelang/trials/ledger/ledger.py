"""Ledger: the trials of one study, claimed by workers for the time of a lease."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ...errors import SpaceError, listed
from ..trial import Proposal, Report, Trial
from .database import Database
from .owner import described
from .schema import TRIALS, dumped, dumped_reports, new_row, trial_of
from .studies import DEFAULT_STUDY, find, join

_FREE = {"owner": "", "lease_until": 0.0}


@dataclass(frozen=True)
class Claim:
    """A trial that runs somewhere.

    Attributes:
        number: Its number.
        owner: Name of the worker that runs it.
        until: End of its lease, in seconds since 1970.
    """

    number: int
    owner: str
    until: float

    def __str__(self) -> str:
        until = datetime.fromtimestamp(self.until).isoformat(" ", "seconds")
        return f"{self.number} ({described(self.owner)}, claimed until {until})"


class Ledger:
    """The trials of one study, which survive a crash and on which many processes may work.

    A worker claims a trial for a time, its lease, and renews the lease while it works. A trial whose lease
    ran out is claimed by the first that asks; only its present owner can finish it.

    Args:
        url: URL of a database, such as "postgresql+psycopg://host/name", or the path of an SQLite file.
            SQLite runs in WAL mode; its file must not be on a network file system.
        study: Name of the study. Default: "search" for one to join, and else the only one of the database.
        identity: Description of the search: the study is begun, or joined if it is the same. Without it, a
            study that is there is opened.
        clock: Returns seconds since 1970; machines that share a ledger must agree on them to within a lease.

    Raises:
        SpaceError: The database cannot be opened, is of another version, or holds no such study.
    """

    def __init__(
        self,
        url: str | Path,
        study: str | None = None,
        identity: Mapping[str, Any] | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._database = Database(url, create=identity is not None)
        try:
            if identity is None:
                self.study = find(self._database, study)
            else:
                self.study = join(self._database, study or DEFAULT_STUDY, identity, clock())
        except BaseException:
            self.close()
            raise
        self._here = TRIALS.c.study == self.study.id

    @property
    def name(self) -> str:
        """Its database, for messages: a URL without passwords, or a path."""
        return self._database.name

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.study.name!r})"

    # -- reading ---------------------------------------------------------------------------------------

    def trials(self, start: int = 0, *, least: int = 0) -> list[Trial]:
        """Return the trials from number `start` on, by number.

        Args:
            start: First number to return.
            least: Number of trials that the study is known to have.

        Raises:
            SpaceError: One is missing, or cannot be read.
        """
        query = sa.select(TRIALS).where(self._here, TRIALS.c.number >= start).order_by(TRIALS.c.number)
        with self._database.transaction() as connection:
            rows = connection.execute(query).mappings().all()
        numbers = {row["number"] for row in rows}
        for number in range(start, max(least, start + len(rows))):
            if number not in numbers:
                raise self._missing(number)
        return [self._read(row) for row in rows]

    def count(self) -> int:
        """Return the number of trials."""
        with self._database.transaction() as connection:
            counted = sa.select(sa.func.count()).select_from(TRIALS).where(self._here)
            return connection.execute(counted).scalar_one()

    def claims(self) -> list[Claim]:
        """Return who runs which trial, by number; some owners may be dead, and some leases over."""
        columns = (TRIALS.c.number, TRIALS.c.owner, TRIALS.c.lease_until)
        running = sa.select(*columns).where(self._here, TRIALS.c.state == "running")
        with self._database.transaction() as connection:
            return [Claim(*row) for row in connection.execute(running.order_by(TRIALS.c.number))]

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

        Raises:
            SpaceError: The study is not in the ledger any more.
        """
        row = new_row(number, proposal, seed)
        row |= {"study": self.study.id, "error": infeasible, "metrics": dumped(metrics or {}), "owner": owner}
        if infeasible:
            row["state"] = "infeasible"
        elif owner:
            row |= {"state": "running", "lease_until": self._clock() + lease}
        try:
            with self._database.transaction() as connection:
                connection.execute(sa.insert(TRIALS).values(row))
        except sa.exc.IntegrityError:
            self._require_entered(number)  # another process entered it first
            return None
        return trial_of(row)

    def claim(self, owner: str, lease: float, *, dead: Iterable[str] = ()) -> Trial | None:
        """Claim the first trial that waits, whose lease ran out, or whose owner is known to be dead.

        Returns:
            The trial, or None.
        """
        now = self._clock()
        left = sa.or_(TRIALS.c.lease_until < now, TRIALS.c.owner.in_(list(dead)))
        open_to_all = sa.or_(TRIALS.c.state == "waiting", sa.and_(TRIALS.c.state == "running", left))
        free = sa.and_(self._here, open_to_all)
        first = sa.select(TRIALS.c.number, TRIALS.c.owner, TRIALS.c.lease_until).where(free)
        while True:
            with self._database.transaction() as connection:
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
                    claimed = sa.select(TRIALS).where(self._here, TRIALS.c.number == row.number)
                    return self._read(connection.execute(claimed).mappings().one())

    def renew(self, number: int, owner: str, lease: float, reports: Iterable[Report] = ()) -> bool:
        """Extend a lease and store the reports; return whether the trial is still the owner's."""
        values = {"lease_until": self._clock() + lease, "reports": dumped_reports(reports)}
        return self._update_owned(number, owner, values)

    def finish(self, trial: Trial) -> bool:
        """Store how a trial ended; return whether it was still its owner's. If not, nothing is stored."""
        values = {
            "state": trial.state,
            "metrics": dumped(trial.metrics),
            "reports": dumped_reports(trial.reports),
            "error": trial.error,
            "duration": trial.duration,
        }
        return self._update_owned(trial.number, trial.owner, values)

    def release(self, number: int, owner: str) -> bool:
        """Release a trial for anyone to claim; return whether it was the owner's."""
        return self._update_owned(number, owner, {"state": "waiting", **_FREE})

    def retry(self, numbers: Sequence[int] = ()) -> list[int]:
        """Have failed trials run again; return their numbers.

        Args:
            numbers: Failed trials; all of them by default.

        Raises:
            SpaceError: One of them has not failed; nothing is changed.
        """
        query = sa.select(TRIALS.c.number, TRIALS.c.state).where(self._here).order_by(TRIALS.c.number)
        with self._database.transaction() as connection:
            states = {row.number: row.state for row in connection.execute(query)}
            chosen = sorted(set(numbers)) or [n for n, state in states.items() if state == "failed"]
            wrong = [f"{n} ({states.get(n, 'no such trial')})" for n in chosen if states.get(n) != "failed"]
            if wrong:
                raise SpaceError(f"only failed trials can run again; these have not failed: {listed(wrong)}.")
            free = {"state": "waiting", "reports": "[]", "error": "", "duration": 0.0} | _FREE
            for number in chosen:
                connection.execute(
                    sa.update(TRIALS).where(self._here, TRIALS.c.number == number).values(free)
                )
        return chosen

    def close(self) -> None:
        """Close every connection."""
        self._database.close()

    def _update_owned(self, number: int, owner: str, values: Mapping[str, Any]) -> bool:
        mine = (self._here, TRIALS.c.number == number, TRIALS.c.owner == owner, TRIALS.c.state == "running")
        with self._database.transaction() as connection:
            return connection.execute(sa.update(TRIALS).where(*mine).values(**values)).rowcount == 1

    def _read(self, row: Mapping[Any, Any]) -> Trial:
        try:
            return trial_of(row)
        except (ValueError, TypeError) as error:
            raise SpaceError(
                f"trial {row['number']} of the ledger {self.name!r} cannot be read: {error}. Restore the "
                "database from a backup, or search again under study='another name'."
            ) from error

    def _require_entered(self, number: int) -> None:
        """Raise unless a trial of that number is there."""
        query = sa.select(TRIALS.c.number).where(self._here, TRIALS.c.number == number)
        with self._database.transaction() as connection:
            if connection.execute(query).one_or_none() is None:
                raise SpaceError(
                    f"the study {self.study.name!r} was removed from the ledger {self.name!r}, or another "
                    "search has its name now; search again under study='another name'."
                )

    def _missing(self, number: int) -> SpaceError:
        return SpaceError(
            f"trial {number} is missing from the ledger {self.name!r}, study {self.study.name!r}: its row "
            "was removed. Restore the database from a backup, or search again under study='another name'."
        )
