"""Databases for ledgers: an SQLite file, and a real server where there is one."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

_SERVERS = Path("/usr/lib/postgresql")  # where Debian's packages put each version, outside of PATH


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """URL of a database server: that of SPACELANG_TEST_DATABASE, or a PostgreSQL server of its own."""
    given = os.environ.get("SPACELANG_TEST_DATABASE")
    if given:
        yield given
        return
    pg_ctl = _pg_ctl()
    if pg_ctl is None:
        pytest.skip(
            "no PostgreSQL server: `make database` installs Debian's; or SPACELANG_TEST_DATABASE names one, "
            "such as postgresql+psycopg://user@host/name"
        )
    folder = Path(tempfile.mkdtemp(prefix="spacelang-postgresql-"))  # a socket's path must be short
    user = "postgres" if os.geteuid() == 0 else None  # the server refuses to run as root
    if user:
        shutil.chown(folder, user)

    def control(*arguments: str) -> None:
        subprocess.run(
            [pg_ctl, *arguments, "--pgdata", folder / "data", "--silent"],
            user=user,
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )

    try:
        control("initdb", "--options=--username=spacelang --auth=trust --no-sync")
        listen = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
        control("start", "--wait", "--options", listen, "--log", str(folder / "log"))
        try:
            yield f"postgresql+psycopg://spacelang@/postgres?host={folder}"
        finally:
            control("stop", "--mode=immediate")
    finally:
        shutil.rmtree(folder)


def _pg_ctl() -> Path | None:
    """The newest one installed."""
    versions = sorted(_SERVERS.glob("*/bin/pg_ctl"), key=lambda path: int(path.parts[-3]))
    found = shutil.which("pg_ctl")
    return versions[-1] if versions else Path(found) if found else None


@pytest.fixture(params=["sqlite", "server"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new database of each kind."""
    if request.param == "sqlite":
        return str(tmp_path / "shared.db")
    server: str = request.getfixturevalue("server")
    engine = sa.create_engine(server)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE IF EXISTS trials, studies"))
    engine.dispose()
    return server
