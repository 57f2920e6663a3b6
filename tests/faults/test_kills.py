"""Kill campaigns; `make faults` runs the long form.

SPACELANG_KILLS is the number of kills of all campaigns together.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from .campaigns import CAMPAIGNS, HEADER, Tally, run_campaign

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("SPACELANG_KILLS", "12"))


@pytest.fixture(scope="module")
def tallies() -> Iterator[list[Tally]]:
    """Tallies of the campaigns that were run; at the end they are printed."""
    made: list[Tally] = []
    yield made
    table = Table(*HEADER)
    for tally in made:
        table.add_row(*tally.row)
    Console(width=100).print(table)


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_nothing_is_lost_twice_or_torn(tmp_path: Path, tallies: list[Tally], name: str) -> None:
    tally = run_campaign(name, tmp_path, KILLS // len(CAMPAIGNS))
    tallies.append(tally)
    assert tally.problems == [], "\n".join(tally.problems)
    assert sum(tally.kills.values()) == KILLS // len(CAMPAIGNS)
