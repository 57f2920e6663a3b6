"""`spacelang top`: the best architectures of a run folder."""

from __future__ import annotations

from pathlib import Path

import click

from .runs import described, directory_argument, ledger_option, opened, say_table


@click.command("top")
@directory_argument
@click.option(
    "-k", "count", type=click.IntRange(1), default=5, show_default=True, help="How many architectures."
)
@click.option("--yaml", "as_yaml", is_flag=True, help="Write them as YAML; with -k 1 as a file of one.")
@ledger_option
def command(directory: Path, count: int, as_yaml: bool, ledger: str | None) -> None:
    """Show the best architectures of the run folder DIR, best first."""
    from ..files import dump_yaml  # late: `spacelang --help` stays quick

    run = opened(directory, ledger)
    archs = run.ranked(count)
    if as_yaml:
        click.echo(dump_yaml(archs[0] if count == 1 else archs), nl=False)
        return
    if run.is_one_shot:
        say_table(("rank", "architecture"), [(at, described(arch)) for at, arch in enumerate(archs, 1)])
        return
    trials = run.history.ranked(len(archs))
    goals = [objective.metric for objective in run.history.objectives]
    rows = [
        (at, t.number, *(t.metrics[g] for g in goals), described(t.arch)) for at, t in enumerate(trials, 1)
    ]
    say_table(("rank", "trial", *goals, "architecture"), rows)
