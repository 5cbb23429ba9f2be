"""`yadtq bench`: how fast it is here, beside other queues, with a proof of delivery for every figure."""

from pathlib import Path
from typing import Annotated

import typer

INEXACT = 1


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(bench)


def bench(
    scenario: Annotated[list[str] | None, typer.Option(help="Only this one; several times for several.")] = None,
    out: Annotated[Path, typer.Option(help="The folder for bench.json and bench.md.")] = Path("bench-report"),
    runs: Annotated[int | None, typer.Option(help="Runs of each contestant; default 5.", min=1)] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes: does it work?")] = False,
    peers: Annotated[bool, typer.Option("--peers/--no-peers", help="Measure Celery, Dramatiq and Huey too.")] = True,
    peers_folder: Annotated[
        Path | None, typer.Option(help="Where their environments are kept; default: in this user's cache.")
    ] = None,
    kafka: Annotated[str, typer.Option(help="A Kafka that runs, instead of one of its own.")] = "",
    redis: Annotated[str, typer.Option(help="A Valkey or Redis that runs, instead of one of its own.")] = "",
) -> None:
    """Measure on this machine and write a report. It takes about 20 minutes; leave the machine alone meanwhile."""
    import dataclasses

    from yadtq.bench.plan import FULL, QUICK
    from yadtq.bench.run import Wish, run
    from yadtq.cli.services import signals
    from yadtq.dev.jars import cache_folder

    plan = QUICK if quick else FULL
    plan = dataclasses.replace(plan, runs=runs) if runs else plan
    folder = (peers_folder or cache_folder() / "bench-peers").absolute() if peers else None
    with signals() as interrupt:
        report = run(Wish(scenario or (), folder, kafka, redis, quick, out / "logs"), plan, interrupt, typer.echo)
    typer.echo(report.markdown())
    typer.echo(f"Written: {' and '.join(map(str, report.write(out)))}")
    if report.problems:
        raise typer.Exit(INEXACT)
