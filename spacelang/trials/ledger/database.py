"""A database with the tables of ledgers, whose every failure is a SpaceError."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ...errors import SpaceError
from .database_url import database_url, hidden_password, without_secrets
from .schema import METADATA, SCHEMA, STUDIES, TRIALS

_ADVICE = {
    "full": "Free some space on its disk, then continue with run(resume=True).",
    "readonly": "Make the file and its folder writable, then continue with run(resume=True).",
    "locked": "Another process holds it: end that one, then continue with run(resume=True).",
}
_DAMAGED = ("malformed", "not a database")
_RESTORE = "The file is damaged: restore it from a backup, or search again in another directory."
_PATIENCE = 30  # seconds in which another process has to release an SQLite file
_LATER = "Continue with run(resume=True) when it answers again."


class LedgerUnavailable(SpaceError):
    """A ledger's database does not answer at present; it may answer the same question later.

    Args:
        reason: Ledger and what its database says.
        advice: Way out for the user.
    """

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(f"{reason}. {advice}")
        self.reason = reason


class LedgerDamaged(SpaceError):
    """A ledger's file is no whole database."""


class Database:
    """A database with the tables of ledgers.

    Args:
        place: URL, or path of an SQLite file. SQLite runs in WAL mode; its file must not be on a network file
            system.
        create: Whether to create the file and the tables where they are missing.

    Raises:
        SpaceError: The database cannot be opened, or its tables are of another version or another program.
    """

    def __init__(self, place: str | Path, *, create: bool) -> None:
        self.url = database_url(place)
        self.name = hidden_password(self.url)
        self._file = _file_of(self.url)
        self._identity: tuple[int, int] | None = None
        self._require_folder(create)
        try:
            self._engine = sa.create_engine(self.url, pool_pre_ping=self._file is None)
        except (sa.exc.ArgumentError, ImportError) as error:
            raise self._cannot_open(error) from None
        if self._engine.dialect.name == "sqlite":
            sa.event.listen(self._engine, "connect", _prepare_sqlite)
        try:
            self._open_tables(create)
        except sa.exc.SQLAlchemyError as error:
            raise self._cannot_open(error) from None
        self._identity = self._present_identity()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """Yield a connection whose work is kept as a whole, or not at all.

        Raises:
            LedgerUnavailable: The database does not answer.
            SpaceError: It is damaged or was removed.
        """
        if self._present_identity() != self._identity:
            raise SpaceError(
                f"the ledger {self.name!r} was removed or replaced while it was in use. Put it back, then "
                "continue with run(resume=True), or search again in another directory."
            )
        try:
            with self._engine.begin() as connection:
                yield connection
        except sa.exc.IntegrityError:  # says which of several processes was first
            raise
        except sa.exc.SQLAlchemyError as error:
            raise self._failure(f"the ledger {self.name!r} failed", error) from None

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    # -- opening ---------------------------------------------------------------------------------------

    def _require_folder(self, create: bool) -> None:
        """Refuse a path at which there can be no file."""
        if self._file is None:
            return
        if self._file.is_dir():
            raise SpaceError(f"the ledger {self.name!r} is a folder; pass the path of a file.")
        if not create and not self._file.exists():
            raise SpaceError(f"there is no ledger {self.name!r}; a search by trials creates it.")
        if not self._file.parent.is_dir():
            raise SpaceError(
                f"the ledger {self.name!r} cannot be opened: {str(self._file.parent)!r} is not a folder. "
                "Create it first, or use another path."
            )

    def _open_tables(self, create: bool) -> None:
        tables = set(sa.inspect(self._engine).get_table_names())
        if "trials" in tables and "studies" not in tables:
            self._refuse_older()
        if not {"trials", "studies"} <= tables:
            if not create:
                raise SpaceError(
                    f"the database {self.name!r} holds no ledger; a search by trials creates it."
                )
            self._create_tables()
        for table in (STUDIES, TRIALS):
            if {column["name"] for column in sa.inspect(self._engine).get_columns(table.name)} != set(
                table.c.keys()
            ):
                self._refuse_foreign(table.name)
        with self._engine.connect() as connection:
            versions = set(connection.execute(sa.select(STUDIES.c.schema).distinct()).scalars())
        if versions - {SCHEMA}:
            self._refuse_version(max(versions - {SCHEMA}))

    def _create_tables(self) -> None:
        for table in METADATA.sorted_tables:
            try:
                table.create(self._engine, checkfirst=True)
            except sa.exc.DBAPIError:  # perhaps since it looked, another process has created this one
                if not sa.inspect(self._engine).has_table(table.name):
                    raise

    def _refuse_older(self) -> None:
        """Refuse a table of trials without studies."""
        columns = {column["name"] for column in sa.inspect(self._engine).get_columns("trials")}
        if not {"number", "arch", "state"} <= columns:
            self._refuse_foreign("trials")
        version = None
        if "schema" in columns:
            with self._engine.connect() as connection:
                version = connection.execute(sa.text("SELECT MAX(schema) FROM trials")).scalar()
        self._refuse_version(version or "1 to 3")

    def _refuse_version(self, version: object) -> None:
        raise SpaceError(
            f"the ledger {self.name!r} has version {version} of its tables; this spacelang reads version "
            f"{SCHEMA}. Use the spacelang that wrote it, or another directory or database."
        )

    def _refuse_foreign(self, table: str) -> None:
        raise SpaceError(
            f"the database {self.name!r} has a table {table!r} of another program; use another database."
        )

    # -- failing ---------------------------------------------------------------------------------------

    def _present_identity(self) -> tuple[int, int] | None:
        """Return what tells the SQLite file from another at its path; None where there is no file."""
        if self._file is None:
            return None
        try:
            status = os.stat(self._file)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _cannot_open(self, error: Exception) -> SpaceError:
        if isinstance(error, sa.exc.NoSuchModuleError):
            return SpaceError(
                f"the ledger {self.name!r} is of an unknown kind of database, {self.url.drivername!r}. "
                "Expected sqlite:///PATH, postgresql+psycopg://USER@HOST/NAME or mysql+pymysql://USER@HOST/NAME."
            )
        if isinstance(error, ModuleNotFoundError):
            package = {"psycopg": "'spacelang-nas[postgresql]'"}.get(error.name or "", error.name)
            return SpaceError(
                f"the ledger {self.name!r} needs the package {error.name}: pip install {package}."
            )
        return self._failure(f"the ledger {self.name!r} cannot be opened", error)

    def _failure(self, what: str, error: Exception) -> SpaceError:
        """Return what failed in the database's own words, without passwords, with what to do."""
        words = str(getattr(error, "orig", None) or error)
        words = " ".join(without_secrets(words, self.url).split()).rstrip(".")
        reason = f"{what}: {words}"
        if any(word in words for word in _DAMAGED):
            return LedgerDamaged(f"{reason}. {_RESTORE}")
        advice = next((text for word, text in _ADVICE.items() if word in words), _LATER)
        if isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError | sa.exc.TimeoutError):
            return LedgerUnavailable(reason, advice)
        return SpaceError(f"{reason}. {advice}")


def _file_of(url: sa.URL) -> Path | None:
    if url.get_backend_name() != "sqlite" or not url.database or url.database.startswith("file:"):
        return None
    return Path(url.database)


def _prepare_sqlite(connection: Any, record: object) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={1000 * _PATIENCE}")
    _use_wal(cursor)
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _use_wal(cursor: Any) -> None:
    """Switch to many readers beside one writer; a kill then loses nothing that was committed.

    SQLite does not wait here: while another process switches the same new file, it says at once that the file
    is locked.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
