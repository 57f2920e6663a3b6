"""`spacelang dashboard`: a multi-trial search in the browser."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import click

from ..errors import SpaceError


@click.command("dashboard")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--port", default=8080, show_default=True, help="Port on this machine to serve at.")
@click.option(
    "--ledger", help="URL of the ledger, where it has a password; default: what the run folder says."
)
def command(directory: Path, port: int, ledger: str | None) -> None:
    """Show the trials of the run folder DIRECTORY: parameters, importances, Pareto front.

    The trials are mirrored into an Optuna study in memory and served by optuna-dashboard to this machine
    alone. Run the command again to see later trials.
    """
    try:
        dashboard = import_module("optuna_dashboard")
        optuna = import_module("optuna")
    except ImportError as error:
        raise SpaceError(
            "the dashboard needs optuna-dashboard: pip install 'spacelang-nas[dashboard]'."
        ) from error
    from ..experiment.trial_run import mirror

    storage = optuna.storages.InMemoryStorage()
    study = mirror(directory, storage, ledger)
    click.echo(f"{len(study.trials)} trials at http://localhost:{port}/ until Ctrl-C")
    dashboard.run_server(storage, host="localhost", port=port)
