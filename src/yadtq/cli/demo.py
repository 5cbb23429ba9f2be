"""`yadtq demo`: the whole job on real services, shown live, with a summary at the end."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from yadtq.settings import DATA_FOLDER

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from yadtq.dev.demo import Scene, Summary
    from yadtq.dev.process import Interrupt
    from yadtq.dev.services import Services

LINES = 14  # of the consoles in the live picture
COLOURS = {"SUCCESS": "green", "FAILED": "red", "PROCESSING": "yellow", "QUEUED": "cyan", "not yet": "dim"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(demo)


def demo(
    data: Annotated[Path, typer.Option(help="The folder with data, logs and addresses.")] = Path(DATA_FOLDER),
    keep: Annotated[
        bool, typer.Option("--keep", envvar="KEEP", help="Keep the services and the pages up until Ctrl+C.")
    ] = False,
) -> None:
    """Run the example tasks on real Kafka and Valkey while a consumer dies and a stand-by takes over."""
    from rich.console import Console

    from yadtq.cli.progress import reporter
    from yadtq.cli.services import signals
    from yadtq.dev.demo import DOOMED, Demo, check_folder, has_failed
    from yadtq.dev.services import Services
    from yadtq.settings import Address, Settings

    check_folder(Path.cwd())  # before services are started for nothing
    console = Console(highlight=False)
    with signals() as interrupt:
        with reporter() as told:
            services = Services(data, web=True, reporter=told, interrupt=interrupt)
            started = services.up()
        try:
            here = f"`yadtq up` in {data}"
            settings = Settings(kafka=Address(services.kafka, here), redis=Address(services.redis, here))
            with _drawing(console) as draw:
                showing = Demo(Path.cwd(), data, settings, interrupt, draw)
                plan = f"{showing.scene.total} tasks go through producer.py; {DOOMED} will die."
                console.print(f"Pages: [bold]{services.web}[/]   {plan}\n")
                summary = showing.run()
            console.print(_table(summary))
            if keep:
                console.print(f"\nLook around: [bold]{services.web}[/]   (Ctrl+C ends everything)")
                _wait_for(interrupt)
        finally:
            if started:
                Services(data, web=True).down()
    console.print(_farewell(services, keep, bool(started)))
    failure = has_failed(summary)
    if failure is not None:
        raise failure


def _wait_for(interrupt: "Interrupt") -> None:
    """Ctrl+C is the end that was asked for, and nothing else is ended by it."""
    while not interrupt.raised:
        signal.pause()
    interrupt.raised = False


def _farewell(services: "Services", keep: bool, ended: bool) -> str:
    if not ended:
        return "The services ran before and go on; end them with: yadtq down"
    return f"Everything has ended; the data is kept in {services.folder.name}." + (
        "" if keep else " Look around in the pages with: KEEP=1 make demo"
    )


@contextmanager
def _drawing(console: "Console") -> "Iterator[Callable[[Scene], None]]":
    """A live picture in a terminal, every line of the consoles as it comes anywhere else."""
    if console.is_terminal and os.environ.get("TERM") != "dumb":
        from rich.live import Live

        with Live(console=console, refresh_per_second=8, transient=True) as live:
            yield lambda scene: live.update(_picture(scene))
        return
    shown = 0

    def plain(scene: "Scene") -> None:
        nonlocal shown
        fresh = scene.lines[shown:]  # one look: lines that come meanwhile are fresh the next time
        for line in fresh:
            console.print(line, markup=False, soft_wrap=True)
        shown += len(fresh)

    yield plain


def _picture(scene: "Scene") -> "RenderableType":
    from rich.console import Group
    from rich.panel import Panel
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    done = scene.statuses["SUCCESS"] + scene.statuses["FAILED"]
    counts = Text("  ".join(f"{count} {status}" for status, count in sorted(scene.statuses.items())))
    for status, colour in COLOURS.items():
        counts.highlight_words([status], colour)
    workers = Table.grid(padding=(0, 2))
    for name, shown in scene.workers.items():
        workers.add_row(Text(name, "bold"), Text(shown, "red" if "DEAD" in shown or "ended" in shown else "green"))
    lines = Text("\n".join(scene.lines[-LINES:]), no_wrap=True, overflow="ellipsis")
    lines.highlight_regex(r"\bSUCCESS\b", "green")
    lines.highlight_regex(r"\b(FAILED|DEAD|fails)\b", "red")
    lines.highlight_regex(r"takes? over|taken over|took over", "bold magenta")
    return Group(
        ProgressBar(total=scene.total, completed=done, width=60),
        counts,
        "",
        workers,
        Panel(lines, title=f"topic {scene.topic}, the last lines", border_style="dim"),
    )


def _table(summary: "Summary") -> "RenderableType":
    from rich.table import Table
    from rich.text import Text

    from yadtq.dev.demo import DOOMED

    table = Table(title="What happened", show_header=False, title_justify="left", min_width=60)
    table.add_row("Lines", summary.published)
    for status, count in sorted(summary.statuses.items()):
        table.add_row(f"[{COLOURS[status]}]{status}[/]", str(count))
    times = {0: "never", 1: "once", 2: "twice"}
    table.add_row(
        "Ran", ", ".join(f"{count} {times.get(n, f'{n} times')}" for n, count in sorted(summary.attempts.items()))
    )
    table.add_row("Interrupted", ", ".join(summary.interrupted) or "none")
    table.add_row("Taken over", ", ".join(f"{what} → {who}" for what, who in summary.moved.items()) or "nothing")
    recovery = "nothing had to be run again" if summary.recovery_s is None else f"{summary.recovery_s:.1f} s"
    table.add_row("Recovery", f"{recovery} from the death of {DOOMED} to the restart of its task")
    for problem in summary.problems:
        table.add_row("[red]Problem[/]", problem)
    table.add_row("Every line", Text(f"{summary.logs}/NAME.log"))
    return table
