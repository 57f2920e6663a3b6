"""Tables of a ledger, and trials as their rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from ..trial import Proposal, Report, Trial

SCHEMA = 4

METADATA = sa.MetaData()

STUDIES = sa.Table(
    "studies",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("name", sa.String(200), nullable=False, unique=True),
    sa.Column("identity", sa.Text, nullable=False),  # JSON
    sa.Column("schema", sa.Integer, nullable=False),
    sa.Column("created", sa.Float, nullable=False),  # seconds since 1970
    sqlite_autoincrement=True,  # the number of a study that was replaced is never used again
)

TRIALS = sa.Table(
    "trials",
    METADATA,
    sa.Column("study", sa.ForeignKey(STUDIES.c.id), primary_key=True, autoincrement=False),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("arch", sa.Text, nullable=False),  # JSON, as are note, overrides, metrics and reports
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("max_epochs", sa.Integer),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("overrides", sa.Text, nullable=False),
    sa.Column("metrics", sa.Text, nullable=False),
    sa.Column("reports", sa.Text, nullable=False),
    sa.Column("error", sa.Text, nullable=False),
    sa.Column("duration", sa.Float, nullable=False),
    sa.Column("owner", sa.String(250), nullable=False),
    sa.Column("lease_until", sa.Float, nullable=False),  # seconds since 1970
    sa.Index("trials_by_state", "study", "state"),
)


def new_row(number: int, proposal: Proposal, seed: int) -> dict[str, Any]:
    """Return the row of a trial that waits, without its study."""
    return {
        "number": number,
        "arch": dumped(proposal.arch),
        "seed": seed,
        "state": "waiting",
        "max_epochs": proposal.max_epochs,
        "note": dumped(proposal.note),
        "overrides": dumped(proposal.overrides),
        "metrics": "{}",
        "reports": "[]",
        "error": "",
        "duration": 0.0,
        "owner": "",
        "lease_until": 0.0,
    }


def trial_of(row: Mapping[Any, Any]) -> Trial:
    """Return the trial of a row.

    Raises:
        ValueError: A column does not hold what was written; also TypeError.
    """
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


def dumped(value: Any) -> str:
    """Return a mapping or a list as JSON."""
    return json.dumps(value if isinstance(value, dict | list) else dict(value))


def dumped_reports(reports: Iterable[Report]) -> str:
    """Return reports as JSON."""
    return json.dumps([[report.epoch, dict(report.metrics)] for report in reports])
