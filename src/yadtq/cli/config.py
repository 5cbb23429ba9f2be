"""`yadtq config show`: every setting, its value, and why it is that.

One invariant: what is shown as the winner is what `settings.load` returns to every other command.
"""

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import typer

from yadtq import settings

SECRET = ("password", "secret", "key")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    config = typer.Typer(help="Settings and where they come from.", no_args_is_help=True)
    config.command("show")(show)
    app.add_typer(config, name="config")


def show() -> None:
    """Show every setting, its value, which source it comes from, and the sources that lost."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("Setting", "Value", "From", "Wins over"):
        table.add_column(column, overflow="fold")
    for row in rows(Path.cwd(), os.environ):
        losers = "\n".join(f"{source}: {value}" for value, source in row.losers)
        table.add_row(row.name, row.value, row.source, losers)
    console = Console(highlight=False)
    (console if console.is_terminal else Console(highlight=False, width=400)).print(table)
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
    toml = _table(folder / settings.TOML_FILE)
    services = _table(folder / settings.DATA_FOLDER / settings.SERVICES_FILE)
    described = []
    for name, address, default in (
        ("kafka", found.kafka, "localhost:9092"),
        ("redis", found.redis, "localhost:6379"),
    ):
        candidates = (
            (environ.get(f"YADTQ_{name.upper()}"), f"environment variable YADTQ_{name.upper()}"),
            (toml.get(name), settings.TOML_FILE),
            (services.get(name), f"`yadtq up` in {folder}"),
            (default, "default"),
        )
        offered = [(settings.mask(str(value)), source) for value, source in candidates if value]
        described.append(Row(name, address.masked, address.source, tuple(offered[1:])))
    return [*described, *_others(found, toml, environ)]


def _others(found: settings.Settings, toml: Mapping[str, object], environ: Mapping[str, str]) -> list[Row]:
    """The settings that are not addresses."""
    described = []
    for field in fields(found):
        if field.name in ("kafka", "redis"):
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
        return "\n".join(f"{key} = {_hide(key, str(text))}" for key, text in value.items()) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value) or "none"


def _hide(key: str, text: str) -> str:
    return "***" if any(word in key.lower() for word in SECRET) else text


def _table(path: Path) -> dict[str, object]:
    """What a file offers; `settings.load` has read it already and complained about what is wrong."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}
    return tomllib.loads(text) if path.suffix == ".toml" else dict(json.loads(text))
