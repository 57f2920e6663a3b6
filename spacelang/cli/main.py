"""The command group and the one place where errors become a line on stderr and an exit status."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import import_module

import click

from ..errors import SpaceError, closest, quoted
from ..version import __version__

COMMANDS = {
    "compare": "compare_command",
    "convert": "convert_command",
    "dashboard": "dashboard",
    "demo": "demo",
    "draw": "draw_command",
    "export": "export_command",
    "info": "info",
    "init": "init_command",
    "ledger": "ledger_command",
    "list": "list_command",
    "report": "report_command",
    "resume": "resume_command",
    "retrain": "retrain_command",
    "search": "search_command",
    "show": "show_command",
    "top": "top_command",
}
BAD_INPUT = 2
INTERRUPTED = 130


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is looked up, so that help is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the module of a command and return its click object, `None` for an unknown name."""
        if name not in COMMANDS:
            return None
        command: click.Command = import_module(f".{COMMANDS[name]}", __package__).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Look the command up; an unknown one is refused with the nearest name."""
        if not args[0].startswith("-") and args[0] not in COMMANDS:
            raise click.UsageError(
                f"unknown command {args[0]!r}; commands are {quoted(COMMANDS)}.{closest(args[0], COMMANDS)}"
            )
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, no_args_is_help=False, invoke_without_command=True)
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.pass_context
def spacelang(ctx: click.Context) -> None:
    """Search neural-network architectures.

    `spacelang demo` runs a whole search on real data in a few minutes.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Bad input (a wrong option, file, space or architecture) gives one line on stderr and status 2,
    Ctrl-C one line and status 130. Anything else is a defect and keeps its traceback.

    Args:
        arguments: Words after the program's name; `None` takes them from `sys.argv`.
    """
    try:
        status = spacelang.main(arguments, prog_name="spacelang", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "spacelang"
        return _refuse(f"{_one_line(error.format_message())} See `{path} --help`.")
    except click.ClickException as error:
        return _refuse(_one_line(error.format_message()))
    except (SpaceError, OSError) as error:
        return _refuse(_one_line(str(error)))
    except (click.Abort, KeyboardInterrupt):
        return _interrupted()
    except SystemExit as stop:
        # Lightning's Trainer answers Ctrl-C with `sys.exit(1)` from inside its handler.
        if isinstance(stop.__context__, KeyboardInterrupt):
            return _interrupted()
        raise


def _refuse(message: str) -> int:
    click.echo(f"spacelang: {message}", err=True)
    return BAD_INPUT


def _interrupted() -> int:
    click.echo("spacelang: interrupted", err=True)
    return INTERRUPTED


def _one_line(message: str) -> str:
    """Return the lines of a message as one; one that ends with a colon introduces the next."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return re.sub(r"([:.]?); ", lambda end: ": " if end[1] == ":" else "; ", "; ".join(lines))
