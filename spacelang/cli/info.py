"""`spacelang info`: the versions a report of a problem needs."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, requires, version

import click

from ..namesake import DISTRIBUTION
from ..version import __version__


@click.command("info")
def command() -> None:
    """Show versions, processors and folders."""
    rows = {
        "spacelang": __version__,
        "python": f"{platform.python_version()} on {platform.platform()}",
        "processors": str(os.cpu_count()),
        "cache": os.environ.get("SPACELANG_CACHE", "~/.cache/spacelang"),
    }
    rows.update({name: _installed(name) for name in _dependencies()})
    width = max(map(len, rows))
    for name, value in rows.items():
        click.echo(f"{name:<{width}}  {value}")


def _dependencies() -> list[str]:
    """Return the names of the required packages and of those in the tensorboard extra."""
    lines = requires(DISTRIBUTION) or []
    names = [line.split(";")[0].split(">")[0].strip() for line in lines if "extra ==" not in line]
    return [*names, "tensorboard"]


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
