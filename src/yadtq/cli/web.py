"""`yadtq web`: the pages and the JSON API on this machine.

One invariant: what is wrong with the arguments is said before any user code is imported, and what is wrong with that
before anything is started.
"""

from pathlib import Path
from typing import Annotated

import typer

from yadtq.cli.option import Kafka, Redis
from yadtq.cli.worker import load_app
from yadtq.errors import SettingsError
from yadtq.settings import DATA_FOLDER

EXAMPLES = "yadtq.classic.tasks:app"


def register(cli: typer.Typer) -> None:
    """Put the commands on the command line."""
    cli.command("web")(web)


def web(
    app: Annotated[str, typer.Argument(help="Where your tasks are, module:app. Left out: the example tasks.")] = "",
    host: Annotated[str, typer.Option(help="The address to listen on: loopback only.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0 takes a free one.")] = 8080,
    task_file: Annotated[
        Path | None,
        typer.Option(help="Append submitted tasks to this file, for `tail -n +1 -f FILE | python3 producer.py ...`."),
    ] = None,
    data: Annotated[Path, typer.Option(help="The folder of the lists' file; deleting the file rebuilds it.")] = Path(
        DATA_FOLDER
    ),
    group: Annotated[
        str, typer.Option(help="The workers' consumer group; lag is what it has not finished.")
    ] = "workers",
    kafka: Kafka = None,
    redis: Redis = None,
) -> None:
    """Show tasks, workers and queues in the browser, and submit tasks by form."""
    try:
        from yadtq.web.server import address, bind, check, serve
        from yadtq.web.site import create_app
    except ImportError as error:
        raise SettingsError(
            f"`yadtq web` needs the web extra ({error.name} is missing): pip install 'yadtq[web]'"
        ) from error
    check(host, port)
    loaded = load_app(app or EXAMPLES, kafka, redis)
    listener = bind(host, port)
    listener.listen()
    path = data / "web" / "readmodel.sqlite"
    site = create_app(loaded, readmodel_path=path, task_file=task_file, group=group)
    typer.echo(f"YADTQ is at {address(listener)}  (Ctrl+C ends it)")
    serve(site, listener)
