"""The command line `yadtq`: one module a noun, each registering its commands on the app that it is given.

One invariant: an error that YADTQ raises on purpose ends as a short text on stderr and exit code 1, and never as
a traceback.

Modules load what they need inside their commands, so that `yadtq --help` stays quick.
"""

import sys
from importlib.metadata import version as version_of
from typing import Annotated

import typer

from yadtq.cli import bench, config, demo, dlq, queue, services, web, worker
from yadtq.errors import YadtqError

NOUNS = (services, worker, web, queue, dlq, demo, bench, config)  # in the order of `yadtq --help`


def build() -> typer.Typer:
    """Put the commands together."""
    app = typer.Typer(
        name="yadtq",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(yadtq)
    for noun in NOUNS:
        noun.register(app)
    return app


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"yadtq {version_of('yadtq')}")
        raise typer.Exit


def yadtq(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Say which version this is and exit."),
    ] = False,
) -> None:
    """A distributed task queue on Kafka."""


def main() -> None:
    """Run the command that the arguments name."""
    if sys.platform == "win32":
        raise SystemExit("yadtq runs on Linux and macOS; on Windows use it inside WSL 2")
    try:
        build()()
    except YadtqError as error:
        raise SystemExit(f"yadtq: {error}") from None
