"""`yadtq config show`: every setting, its value, and why it is that.

One invariant: what is shown as the winner is what `settings.load` returns to every other command.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import typer

from yadtq import settings


def register(app: typer.Typer) -> None:
    """Add the commands."""
    config = typer.Typer(help="Settings and where they come from.", no_args_is_help=True)
    config.command("show")(show)
    app.add_typer(config, name="config")


def show() -> None:
    """Show every setting, its value, which source it comes from, and the sources that lost."""
    from rich.table import Table

    from yadtq.cli.console import console

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("Setting", "Value", "From", "Wins over"):
        table.add_column(column, overflow="fold")
    for row in rows(Path.cwd(), os.environ):
        losers = "\n".join(f"{source}: {value}" for value, source in row.losers)
        table.add_row(row.name, row.value, row.source, losers)
    console().print(table)
    typer.echo(
        "\nOrder: argument, environment variable, yadtq.toml, what `yadtq up` runs in this folder, default. "
        "The first that is set wins."
    )


@dataclass(frozen=True)
class Row:
    """One setting. Secrets are hidden."""

    name: str
    value: str
    source: str
    losers: tuple[tuple[str, str], ...] = ()  # value and source, in the order in which they would have come


def rows(folder: Path, environ: Mapping[str, str]) -> list[Row]:
    """Describe the settings of a program that runs in `folder`.

    Raises:
        SettingsError: As `settings.load`.
    """
    found = settings.load(folder=folder, environ=environ)
    sources = settings.Sources.of(folder, environ)
    described = []
    for name in settings.DEFAULTS:
        winner, *losers = sources.addresses(name)
        described.append(Row(name, winner.masked, winner.source, tuple((at.masked, at.source) for at in losers)))
    return [*described, *_others(found, sources.toml, environ)]


def _others(found: settings.Settings, toml: Mapping[str, object], environ: Mapping[str, str]) -> list[Row]:
    """The settings that are not addresses."""
    described = []
    for field in fields(found):
        if field.name in settings.DEFAULTS:
            continue
        value = getattr(found, field.name)
        source = settings.TOML_FILE if field.name in toml else "default"
        losers: tuple[tuple[str, str], ...] = ()
        if field.name == "prefix" and "YADTQ_PREFIX" in environ:
            losers = ((str(toml["prefix"]), source),) if "prefix" in toml else ()
            source = "environment variable YADTQ_PREFIX"
        described.append(Row(field.name, _shown(value), source, losers))
    return described


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return "\n".join(f"{key} = {settings.masked_value(key, str(text))}" for key, text in value.items()) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value) or "none"
