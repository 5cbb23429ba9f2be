"""`yadtq queue`: the queues of a cluster, and more partitions for one of them.

One invariant: nothing is changed before everything that speaks against it was looked at.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from yadtq.cli.option import Kafka, Redis

if TYPE_CHECKING:
    from yadtq.queues import Queues

Group = Annotated[str, typer.Option(help="The Kafka consumer group of the workers.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    queue = typer.Typer(help="Queues: partitions, lag, order; and more partitions.", no_args_is_help=True)
    queue.command("list")(list_)
    queue.command("grow")(grow)
    app.add_typer(queue, name="queue")


def list_(
    group: Group = "workers",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    kafka: Kafka = None,
    redis: Redis = None,
) -> None:
    """List the queues with their partitions, what is not finished, and the order that their workers keep."""
    import msgspec

    with _connected(group, kafka, redis) as queues:
        found = queues.facts()
    if as_json:
        for facts in found:
            typer.echo(msgspec.json.encode(facts))
        return
    if not found:
        typer.echo("No queues.")
        return
    width = max(len(facts.name) for facts in found)
    typer.echo(f"{'queue':<{width}}  partitions       lag  order")
    for facts in found:
        order = ", ".join(facts.orders) or "-"
        typer.echo(f"{facts.name:<{width}}  {facts.partitions:>10}  {facts.lag:>8,}  {order}".rstrip())


def grow(
    queue: Annotated[str, typer.Argument(help="The queue.", metavar="QUEUE")],
    partitions: Annotated[int, typer.Argument(help="How many it shall have.", metavar="PARTITIONS")],
    group: Group = "workers",
    kafka: Kafka = None,
    redis: Redis = None,
) -> None:
    """Give a queue more partitions while it is served. Kafka takes none away again."""
    with _connected(group, kafka, redis) as queues:
        before = queues.grow(queue, partitions)
    typer.echo(f"{queue} has {partitions} partitions now, {before} before; workers take the new ones within 15 s")


@contextmanager
def _connected(group: str, kafka: str | None, redis: str | None) -> "Iterator[Queues]":
    import yadtq.broker
    import yadtq.ledger
    from yadtq.layout import Layout
    from yadtq.queues import Queues
    from yadtq.settings import load

    settings = load(kafka=kafka, redis=redis)
    with closing(yadtq.broker.connect(settings)) as broker, closing(yadtq.ledger.connect(settings)) as ledger:
        yield Queues(broker, ledger, Layout(settings.prefix), group)
