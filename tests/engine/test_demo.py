"""The demo, with actors that obey the test in place of processes: what it shows, and what it says at its end."""

import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console as Screen

import yadtq.ledger
from yadtq.classic.console import Console
from yadtq.classic.consumer import EXIT_FAILED, Shown
from yadtq.cli.demo import LINES, _drawing, _picture, _table
from yadtq.dev import demo
from yadtq.dev.demo import DOOMED, WORKERS, Demo, Scene, Summary
from yadtq.dev.process import Interrupt
from yadtq.dev.takeover import NOBODY, taken_over
from yadtq.ledger import TaskRecord
from yadtq.settings import Settings, load
from yadtq.states import State
from yadtq.telemetry import Event

ROOT = Path(__file__).parents[2]


class Consoles:
    """What consumers print of their events, line by line."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd
        self.lines: list[str] = []

    def tell(self, name: str, *events: Event) -> None:
        shown = Shown(Console(name), stand_by=name == "stand-by")
        for event in events:
            shown(event)
        self.lines += self._capfd.readouterr().out.splitlines()


@pytest.fixture
def consoles(capfd: pytest.CaptureFixture[str]) -> Consoles:
    return Consoles(capfd)


def assigned(*partitions: int) -> list[Event]:
    return [Event("assigned", at, 3) for at in partitions]


def test_what_is_taken_over_is_told_by_the_consoles_whatever_the_last_heartbeat_knew(consoles: Consoles) -> None:
    consoles.tell("worker-2", *assigned(0, 1, 2, 3))
    consoles.tell("worker-2", Event("revoked", 1), Event("revoked", 2), Event("revoked", 3))
    consoles.tell("worker-1", *assigned(1, 2, 3), Event("revoked", 3))
    consoles.tell("stand-by", *assigned(3))
    consoles.tell("worker-1", Event("started", 1, 7, "task-12", 1))
    assert taken_over(consoles.lines, "worker-1") == {"partition 1": NOBODY, "partition 2": NOBODY}
    consoles.tell("worker-2", *assigned(1), Event("taken_over", 1, 7, "task-12", 2, "worker-1"))
    consoles.tell("stand-by", *assigned(2))
    consoles.tell("worker-2", Event("lost", 1))
    consoles.tell("stand-by", *assigned(1), Event("taken_over", 1, 8, "task-13", 2, "worker-2"))
    assert taken_over(consoles.lines, "worker-1") == {
        "partition 1": "worker-2",
        "partition 2": "stand-by",
        "task-12": "worker-2",
    }
    assert taken_over(consoles.lines, "nobody-else") == {}


def test_every_line_is_shown_once_however_many_come_between_two_looks_and_while_it_prints() -> None:
    scene = Scene("q", 1, lines=[f"line {n}" for n in range(100)])

    class Paper(io.StringIO):
        """A line comes in with each that is printed, for a while."""

        def write(self, text: str) -> int:
            if len(scene.lines) < 150:
                scene.lines.append(f"line {len(scene.lines)}")
            return super().write(text)

    paper = Paper()
    with _drawing(Screen(file=paper)) as draw:
        for _ in range(10):
            draw(scene)
    assert paper.getvalue().splitlines() == [f"line {n}" for n in range(150)]


def test_a_live_picture_says_that_it_has_the_last_lines_only() -> None:
    screen = Screen(file=io.StringIO(), width=100)
    screen.print(_picture(Scene("q", 1, lines=[f"line {n};" for n in range(100)])))
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "topic q, the last lines" in shown
    assert [n for n in range(100) if f"line {n};" in shown] == list(range(100 - LINES, 100))


def test_the_summary_says_what_was_taken_over_and_where_every_line_is() -> None:
    moved = {"partition 1": "worker-2", "task-12": "worker-2"}
    summary = Summary("", Counter(), Counter(), moved, ["task-12"], 9.5, [], Path(".yadtq/demo/1"))
    screen = Screen(file=io.StringIO(), width=200)
    screen.print(_table(summary))
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "partition 1 → worker-2, task-12 → worker-2" in shown
    assert ".yadtq/demo/1/NAME.log" in shown


@dataclass
class Actor:
    """A process of which the test says when it ends, and what it says at last."""

    say: Callable[[str], None]
    last_words: str
    exit_code: int | None = 0

    def finish(self) -> None:
        self.say(self.last_words)


def held_by(worker: str, task_id: str) -> TaskRecord:
    return TaskRecord(
        task_id,
        State.PROCESSING,
        False,
        "add",
        1,
        "1",
        worker,
        None,
        None,
        1,
        2,
        None,
        demo.QUEUE,
        partition=0,
        offset=0,
    )


@dataclass
class Play:
    """Stands in for the processes and for Redis."""

    players: dict[str, Actor] = field(default_factory=dict)
    held: str | None = None  # the worker that holds all tasks
    looks: int = 0
    drawn: list[str] = field(default_factory=list)

    def __call__(self, *_: object) -> "Play":
        return self

    def __enter__(self) -> "Play":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def start(self, name: str, command: Sequence[str], say: Callable[[str], None]) -> None:
        self.players[name] = Actor(say, f"00:00:00 {name}: last words", None if name == DOOMED else 0)
        say(f"00:00:00 {name}: ready")

    def pipe(self, name: str, first: object, second: Sequence[str], say: Callable[[str], None]) -> None:
        self.start(name, second, say)

    def records(self, task_ids: Sequence[str]) -> list[TaskRecord | None]:
        """The doomed one claims the first task and dies of it right behind the first look."""
        held = self.held
        if self.looks == 0:
            self.held, self.players[DOOMED].exit_code = DOOMED, EXIT_FAILED
        self.looks += 1
        return [held_by(held, task_ids[0]) if held else None, *[None] * (len(task_ids) - 1)]

    def workers(self) -> list[Any]:
        return []

    def draw(self, scene: Scene) -> None:
        self.drawn = list(scene.lines)


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    play = Play()
    monkeypatch.setattr(yadtq.ledger, "connect", lambda settings: play)
    monkeypatch.setattr(demo, "Cast", play)
    monkeypatch.setattr(demo, "LOOK_S", 0.0)
    return play


def shown_of(play: Play, folder: Path) -> Summary:
    settings: Settings = load(folder=folder, environ={})
    return Demo(ROOT, folder, settings, Interrupt(), play.draw).run()


def test_the_last_words_are_drawn_too(play: Play, tmp_path: Path) -> None:
    shown_of(play, tmp_path)
    assert [line for line in play.drawn if line.endswith("last words")] == [
        f"00:00:00 {name}: last words" for name in ("monitor", *WORKERS, "producer")
    ]


def test_a_task_that_is_claimed_right_before_the_death_is_seen(play: Play, tmp_path: Path) -> None:
    (interrupted,) = shown_of(play, tmp_path).interrupted
    assert interrupted.startswith("task-01-")
