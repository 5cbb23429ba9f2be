"""`yadtq dlq`: dead letters, listed, shown and replayed.

One invariant: only `replay` writes anything, and `--all` says how many tasks it would make before it makes the first.
"""

import re
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from yadtq.cli.option import Kafka, Redis
from yadtq.errors import SettingsError
from yadtq.visible import visible

if TYPE_CHECKING:
    from yadtq.broker import Broker
    from yadtq.deadletters import DeadLetters, Letter, Wanted
    from yadtq.replay import Replayed, Replayer
    from yadtq.settings import Settings

TEXT_CHARS = 20_000
REFUSED_SHOWN = 20
UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}

Queue = Annotated[str, typer.Argument(help="The queue.", metavar="QUEUE")]
Reason = Annotated[str | None, typer.Option(help="Only those with this text in their reason, in any case.")]
Type = Annotated[str | None, typer.Option("--type", help="Only this task; in a replay of one: another task's name.")]
Since = Annotated[str | None, typer.Option(help="Only younger ones: 90s, 30m, 2h, 7d, or a date and time (UTC).")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    dlq = typer.Typer(help="Dead letters: what could not run, and how to run it again.", no_args_is_help=True)
    dlq.command("list")(list_)
    dlq.command("show")(show)
    dlq.command("replay")(replay)
    app.add_typer(dlq, name="dlq")


def list_(
    queue: Queue,
    reason: Reason = None,
    task_type: Type = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(help="How many, the newest first.", min=1)] = 50,
    as_json: Json = False,
    kafka: Kafka = None,
) -> None:
    """List the newest dead letters of a queue."""
    wanted = _wanted(reason, task_type, since)
    with _connected(kafka) as (_, _, letters):
        page = letters.page(queue, wanted, limit)
    if as_json:
        from yadtq.deadletters import letter_item

        for letter in page.letters:
            typer.echo(msgspec.json.encode(letter_item(letter)))
        return
    if not page.letters:
        typer.echo(f"No dead letters{' that fit' if (reason, task_type, since) != (None,) * 3 else ''} in {queue}.")
        return
    _print_table(page.letters)
    more = "; there are more: --limit" if page.before else ""
    typer.echo(f"\n{len(page.letters)} shown, the newest first{more}")


def show(
    queue: Queue,
    letter_id: Annotated[str, typer.Argument(help="PARTITION/OFFSET as listed, or the task's id.", metavar="ID")],
    as_json: Json = False,
    kafka: Kafka = None,
) -> None:
    """Show one dead letter: why, whence, and its bytes."""
    with _connected(kafka) as (_, _, letters):
        letter = letters.find(queue, letter_id)
    if as_json:
        from yadtq.deadletters import opened_item

        typer.echo(msgspec.json.encode(opened_item(letter)))
        return
    for name, text in _facts(letter):
        typer.echo(f"{name:<12} {_line(text)}")
    typer.echo("")
    typer.echo(_bytes(letter))


def replay(
    queue: Queue,
    letter_id: Annotated[
        str | None, typer.Argument(help="PARTITION/OFFSET as listed, or the task's id.", metavar="[ID]")
    ] = None,
    args: Annotated[str | None, typer.Option(help="Other arguments, a JSON array.")] = None,
    kwargs: Annotated[str | None, typer.Option(help="Other arguments by name, a JSON object.")] = None,
    task_type: Type = None,
    raw: Annotated[bool, typer.Option("--raw", help="The very bytes, for workers that can read them.")] = False,
    every: Annotated[bool, typer.Option("--all", help="All of them, or all that the filters leave.")] = False,
    reason: Reason = None,
    since: Since = None,
    again: Annotated[bool, typer.Option("--again", help="Also what was replayed before: another task.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before --all.")] = False,
    kafka: Kafka = None,
    redis: Redis = None,
) -> None:
    """Publish dead letters as new tasks that name their originals.

    No app is imported here: the worker checks the task's name and its arguments, and what does not fit ends FAILED.
    """
    if every == (letter_id is not None):
        raise SettingsError("say which dead letter to replay, or --all")
    if every and (raw or args is not None or kwargs is not None):
        raise SettingsError("--args, --kwargs and --raw are for one dead letter: say which")
    if not every and (reason, since) != (None, None):
        raise SettingsError("--reason and --since go with --all")
    if raw and (args, kwargs, task_type) != (None, None, None):
        raise SettingsError("--raw publishes the very bytes: nothing can be edited in them")
    wanted = _wanted(reason, task_type if every else None, since)
    with _connected(kafka, redis) as (settings, broker, letters), _replayer(settings, broker) as replayer:
        if letter_id is None:
            _replay_all(letters, replayer, queue, wanted, again, yes)
        else:
            from yadtq.replay import edit_of

            edit = edit_of(task_type, args, kwargs)
            _say_done(replayer.replay(letters.find(queue, letter_id), edit, again=again, raw=raw))


def _say_done(done: "Replayed") -> None:
    if done.before:
        typer.echo(
            f"{done.letter_id} was replayed so before, as task {_line(done.task_id)}; --again makes another task"
        )
    else:
        typer.echo(f"{done.letter_id} is replayed as task {_line(done.task_id)}")


def _replay_all(
    letters: "DeadLetters", replayer: "Replayer", queue: str, wanted: "Wanted", again: bool, yes: bool
) -> None:
    survey = letters.survey(queue, wanted)
    todo = survey.matching - (0 if again else survey.replayed)
    were = "was" if survey.replayed == 1 else "were"
    before = f" ({survey.replayed:,} {were} replayed before)" if survey.replayed else ""
    if not todo:
        typer.echo(f"Nothing to replay in {queue}{before}.")
        return
    if not yes:
        meant = f"{todo:,} dead letter{'' if todo == 1 else 's'} of {queue}"
        if not sys.stdin.isatty():
            raise SettingsError(f"{meant} would be replayed{before}: say --yes")
        typer.confirm(f"Replay {meant}{before}?", abort=True)
    summary = replayer.replay_all(queue, wanted, survey=survey, again=again)
    typer.echo(f"{summary.replayed:,} replayed, {summary.before:,} before, {len(summary.refused):,} cannot be")
    for refused, why in summary.refused[:REFUSED_SHOWN]:
        typer.echo(f"{refused}: {_line(why)}", err=True)
    if len(summary.refused) > REFUSED_SHOWN:
        typer.echo(f"and {len(summary.refused) - REFUSED_SHOWN:,} more", err=True)
    if summary.refused:
        raise typer.Exit(1)


@contextmanager
def _connected(kafka: str | None, redis: str | None = None) -> "Iterator[tuple[Settings, Broker, DeadLetters]]":
    from yadtq.broker import connect
    from yadtq.deadletters import DeadLetters
    from yadtq.layout import Layout
    from yadtq.settings import load

    settings = load(kafka=kafka, redis=redis)
    with closing(connect(settings)) as broker:
        yield settings, broker, DeadLetters(broker, Layout(settings.prefix))


@contextmanager
def _replayer(settings: "Settings", broker: "Broker") -> "Iterator[Replayer]":
    from yadtq.layout import Layout
    from yadtq.ledger import connect
    from yadtq.replay import Replayer

    with closing(connect(settings)) as ledger, closing(Replayer(broker, ledger, Layout(settings.prefix))) as replayer:
        yield replayer


def _wanted(reason: str | None, task_type: str | None, since: str | None) -> "Wanted":
    from yadtq.deadletters import Wanted

    return Wanted(reason, task_type, None if since is None else _since_ms(since, time.time_ns() // 1_000_000))


def _since_ms(text: str, now_ms: int) -> int:
    age = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if age:
        return now_ms - int(age[1]) * UNITS_S[age[2]] * 1_000
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError(
            f"--since is 90s, 30m, 2h, 7d or a date and time such as 2026-01-31T12:00, not {text!r}"
        ) from None
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1_000)


def _print_table(letters: "list[Letter]") -> None:
    from rich.table import Table
    from rich.text import Text

    from yadtq.cli.console import console

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("ID", "When", "Task", "Task's id", "Reason", "Replayed as"):
        table.add_column(column, overflow="fold")
    for letter in letters:
        replays = (
            f"{letter.replays[-1]}{f' and {len(letter.replays) - 1} more' if len(letter.replays) > 1 else ''}"
            if letter.replays
            else ""
        )
        cells = (letter.letter_id, _when(letter.at_ms), letter.task_type, letter.task_id, letter.reason, replays)
        table.add_row(*(Text(_line(cell)) for cell in cells))
    console().print(table)


def _facts(letter: "Letter") -> Iterator[tuple[str, str]]:
    yield "dead letter", f"{letter.letter_id} of {letter.place.topic}"
    yield "reason", letter.reason
    yield "when", _when(letter.at_ms)
    yield "source", str(letter.source or "unknown")
    if letter.task_id:
        yield "task", letter.task_id
    envelope = letter.envelope
    if envelope:
        yield "type", envelope.task_type
        yield "arguments", bytes(envelope.task_args).decode("utf-8", "replace")
        if bytes(envelope.task_kwargs) != b"{}":
            yield "by name", bytes(envelope.task_kwargs).decode("utf-8", "replace")
        if envelope.replay_of:
            yield "replay of", envelope.replay_of
    for task_id in letter.replays:
        yield "replayed as", task_id


def _bytes(letter: "Letter") -> str:
    from yadtq.deadletters import HEX_BYTES, shown_bytes

    if letter.sha256 and not letter.data:
        return f"no bytes: {_line(letter.problem)}"
    text, pairs = shown_bytes(letter.data)
    what = "no envelope" if letter.envelope is None else "an envelope"
    why = f" ({_line(letter.problem)})" if letter.problem else ""
    head = f"{letter.size_bytes:,} bytes, {what}{why}"
    if text is None:
        return f"{head}; no text, the first {min(HEX_BYTES, letter.size_bytes):,} in hex:\n{pairs}"
    cut = f"; the first {TEXT_CHARS:,} characters" if len(text) > TEXT_CHARS else ""
    return f"{head}{cut}:\n{text[:TEXT_CHARS]}"


def _line(text: str) -> str:
    """A text in one line, with every character that is in it."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def _when(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1_000, UTC).isoformat(sep=" ", timespec="seconds").replace("+00:00", "Z")
