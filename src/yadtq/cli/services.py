"""`yadtq up`, `yadtq down` and `yadtq status`: the services of a folder.

One invariant: Ctrl+C, SIGTERM and a closed terminal end what this command has started, whenever they come.
"""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from yadtq.settings import DATA_FOLDER

if TYPE_CHECKING:
    from types import FrameType

    from rich.console import RenderableType

    from yadtq.dev.process import Interrupt
    from yadtq.dev.services import Services, State

INTERRUPTED = 130  # what shells expect after Ctrl+C
MARKS = {"running": "green", "not answering": "yellow", "dead": "red"}

Data = Annotated[Path, typer.Option("--data", help="The folder with data, logs and addresses.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(up)
    app.command()(down)
    app.command()(status)


def up(
    data: Data = Path(DATA_FOLDER),
    web: Annotated[bool, typer.Option("--web/--no-web", help="Start the web app too.")] = True,
) -> None:
    """Start Kafka, Valkey and the web app in the background. What runs already is left alone.

    The first start fetches Kafka, 43 MB, into a cache. Data is kept between starts.
    """
    from yadtq.cli.progress import reporter
    from yadtq.dev.services import Services

    began_mono = time.monotonic()
    with signals() as interrupt, reporter() as told:
        services = Services(data, web=web, reporter=told, interrupt=interrupt)
        started = services.up()
    took = f"Ready in {time.monotonic() - began_mono:.1f} s." if started else "Already running."
    _show(_banner(services, took))


def down(data: Data = Path(DATA_FOLDER)) -> None:
    """End what `yadtq up` started. Data is kept."""
    from yadtq.cli.progress import reporter
    from yadtq.dev.services import Services

    with signals() as interrupt, reporter() as told:
        ended = Services(data, reporter=told, interrupt=interrupt).down()
    typer.echo(f"Stopped; the data stays in {data}." if ended else f"Nothing is running in {data}.")


def status(data: Data = Path(DATA_FOLDER)) -> None:
    """Say how the services are. Exit code 0 when all of them run."""
    from yadtq.dev.services import Services

    states = Services(data).status()
    if not states:
        typer.echo(f"Nothing is running in {data}. Start it with: yadtq up")
        raise typer.Exit(1)
    _show(_table(states))
    unwell = [state for state in states if state.state != "running"]
    for state in unwell:
        typer.echo(f"{state.title} is {state.state}; its log is {state.record.log}. Bring it back with: yadtq up")
    if unwell:
        raise typer.Exit(1)


def _banner(services: "Services", took: str) -> "RenderableType":
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for state in services.status():
        table.add_row(f"  {state.title}", Text(state.record.address, "bold"), Text(state.record.version, "dim"))
    table.add_row("  Data", str(services.folder), "")
    return Group(Text(took, "green"), table, "\n".join(_next_steps(services)))


def _next_steps(services: "Services") -> Iterator[str]:
    """What to type now. Where other commands would not find these services, that comes first."""
    from yadtq import settings

    found = settings.load()
    for name, here, there in (("kafka", services.kafka, found.kafka), ("redis", services.redis, found.redis)):
        if here != there.value:
            yield f"Commands in this folder use another {name} ({there.source}); for this one: "
            yield f"  export YADTQ_{name.upper()}={here}"
    yield "Next:  yadtq worker yourmodule:app"
    yield (
        "End:   yadtq down"
        if services.folder == Path(DATA_FOLDER).absolute()
        else f"End:   yadtq down --data {services.folder}"
    )


def _table(states: "list[State]") -> "RenderableType":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("Service", "State", "Address", "Process", "Started", "Version"):
        table.add_column(column, no_wrap=column != "Version")
    for state in states:
        started = time.strftime("%d %b %H:%M", time.localtime(state.record.started_at_ms / 1000))
        mark = Text(state.state, MARKS[state.state])
        table.add_row(state.title, mark, state.record.address, str(state.record.pid), started, state.record.version)
    return table


def _show(content: "RenderableType") -> None:
    from yadtq.cli.console import console

    console().print(content, soft_wrap=True)


@contextmanager
def signals() -> "Iterator[Interrupt]":
    """Turn signals into a flag that every wait looks at, and leave with exit code 130 after one.

    Raises:
        typer.Exit: A signal came in; what was started is ended.
    """
    from yadtq.dev.process import Interrupt

    interrupt = Interrupt()

    def note(_number: int, _frame: "FrameType | None") -> None:
        interrupt.raised = True

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield interrupt
        interrupt.check()
    except KeyboardInterrupt:
        with suppress(OSError):  # the terminal may be what went away
            typer.echo("Interrupted; what this command had started is ended, data is kept.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
