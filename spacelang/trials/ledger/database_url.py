"""URLs of databases: as users write them, as SQLAlchemy needs them, and as messages may show them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from ...errors import SpaceError

_SECRET = re.compile("password|passwd|pwd|secret|token|odbc_connect", re.IGNORECASE)
_EXAMPLE = "postgresql+psycopg://user@host:5432/name"


def database_url(place: str | Path) -> sa.URL:
    """Return the URL of a database, or of an SQLite file, whatever characters its path holds.

    Args:
        place: URL as text, or the path of a file.

    Raises:
        SpaceError: The text is not a URL of a database. The message shows no part that may be a password.
    """
    if isinstance(place, Path) or "://" not in place:
        _refuse_bare_name(place)
        return sa.URL.create("sqlite", database=str(Path(place).absolute()))
    _refuse_unescaped_at(place)
    _refuse_scheme_without_driver(place)
    try:
        url = sa.make_url(place)
    except (sa.exc.ArgumentError, ValueError):  # their messages repeat the text, which may hold a password
        raise SpaceError(
            f"the ledger's URL '{_scheme(place)}://...' cannot be read: its scheme or its port is malformed. "
            f"Expected such as {_EXAMPLE}, with a number as its port."
        ) from None
    return _with_absolute_path(url) if url.get_backend_name() == "sqlite" else url


def hidden_password(place: str | Path | sa.URL) -> str:
    """Return a database URL without its passwords; for an SQLite file, its path."""
    url = place if isinstance(place, sa.URL) else database_url(place)
    if url.get_backend_name() == "sqlite" and url.database and not url.query:
        return url.database
    hidden = url.update_query_dict({key: "***" for key in url.query if _SECRET.search(key)})
    return hidden.render_as_string(hide_password=True).replace("%2A%2A%2A", "***")


def without_secrets(text: str, url: sa.URL) -> str:
    """Return a text, such as a driver's message, without the passwords of a URL."""
    for secret in _secrets(url):
        text = text.replace(secret, "***")
    return text


def _secrets(url: sa.URL) -> Iterator[str]:
    if url.password:
        yield str(url.password)
    for key, value in url.query.items():
        if _SECRET.search(key):
            yield from filter(None, [value] if isinstance(value, str) else value)


def _refuse_bare_name(place: str | Path) -> None:
    """Refuse a text that may be meant as the name of a database on a server."""
    if isinstance(place, str) and not Path(place).suffix and Path(place).name == place:
        raise SpaceError(
            f"ledger={place!r} is neither a URL nor a file with an ending. For a file of SQLite write "
            f"ledger='{place}.db'; for a database on a server, ledger={_EXAMPLE.replace('name', place)!r}."
        )


def _refuse_scheme_without_driver(text: str) -> None:
    """Refuse what SQLAlchemy does not know, or takes for psycopg2, where PostgreSQL is meant."""
    scheme = text.partition("://")[0]
    if scheme in ("postgres", "postgresql"):
        raise SpaceError(
            f"the ledger's URL begins with {scheme}://; write postgresql+psycopg:// and the same after it."
        )


def _refuse_unescaped_at(text: str) -> None:
    """Refuse a URL in which a part of the password would be taken for the host, the path or the query."""
    scheme, _, rest = text.partition("://")
    if scheme.startswith("sqlite") or "@" not in rest:
        return
    before = rest.partition("@")[0]
    if rest.count("@") > 1 or "/" in before.partition(":")[0]:
        raise SpaceError(
            f"the ledger's URL '{scheme}://...' has an '@' or a '/' in its user name or password. Write '@' "
            f"as %40 and '/' as %2F there, so that one '@' remains, before the host: {_EXAMPLE}."
        )


def _scheme(text: str) -> str:
    """Return the scheme of a URL, or nothing where it may be something else."""
    scheme = text.partition("://")[0]
    return scheme if re.fullmatch(r"[\w+.-]{1,40}", scheme) else "..."


def _with_absolute_path(url: sa.URL) -> sa.URL:
    """Return the URL of an SQLite file that stays the same when the working folder changes."""
    if not url.database or url.database == ":memory:":
        raise SpaceError(
            f"the ledger {url.render_as_string()!r} would be lost with this process; name a file, such as "
            "sqlite:///trials.db."
        )
    if url.database.startswith("file:"):
        return url
    return url.set(database=str(Path(url.database).absolute()))
