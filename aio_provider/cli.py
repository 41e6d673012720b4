"""The ``aio`` command: a group whose subcommands are loaded when they are used."""

from __future__ import annotations

from importlib import import_module

from aio_provider._version import __version__

try:
    import click
except ModuleNotFoundError:
    raise SystemExit("The aio command needs its extra: pip install 'aio-provider[cli]'") from None

#: Every subcommand: name → where it is, and its line in ``aio --help`` (so that help loads none of them).
COMMANDS: dict[str, tuple[str, str]] = {
    "budget": (
        "aio_provider.cli_budget:budget",
        "Say who may spend how many credits.",
    ),
    "credits": (
        "aio_provider.cli_credits:credits",
        "Say what was spent, by whom, on what.",
    ),
    "estimate": (
        "aio_provider.cli_estimate:estimate",
        "Say what a run over a file of rows would cost.",
    ),
    "generate": (
        "aio_provider.cli_generate:generate",
        "Make something for every row of a file.",
    ),
    "ledger": (
        "aio_provider.cli_ledger:ledger",
        "Look into the record of paid jobs, settle what is held.",
    ),
    "reconcile": (
        "aio_provider.cli_reconcile:reconcile",
        "Compare the service's usage statement with the ledger.",
    ),
    "sandbox": (
        "aio_provider.cli_sandbox:sandbox",
        "Serve the API on this machine: free, offline, for tests.",
    ),
}


class LazyGroup(click.Group):
    """A group that imports a subcommand's module only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in alphabetical order."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, or ``None`` when there is none of that name.

        :raises click.ClickException: naming the package that its extra would install.
        """
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        try:
            command = getattr(import_module(module), attribute)
        except ModuleNotFoundError as error:
            raise missing(cmd_name, error) from error
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, from :data:`COMMANDS` alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


def missing(command: str, error: ModuleNotFoundError) -> click.ClickException:
    """What to say when a command's package is not installed.

    :param command: the subcommand's name.
    :param error: of the import.
    """
    extra = "sandbox" if command == "sandbox" else "cli"
    return click.ClickException(
        f"aio {command} needs {error.name}, which is not installed: pip install 'aio-provider[{extra}]'"
    )


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", "-V", prog_name="aio-provider")
def main() -> None:
    """API in One generations for data teams: never paid twice, paced, accounted for."""


if __name__ == "__main__":
    main(prog_name="aio")
