"""What the commands say where they refuse, and in a worker's log: one short line with all that helps."""

import logging
import math
import re
import sys
from collections.abc import Sequence
from concurrent.futures import Future
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from yadtq import publisher
from yadtq.app import App
from yadtq.attempt import Attempt
from yadtq.broker.memory import MemoryBroker
from yadtq.classic import producer
from yadtq.classic.console import Console
from yadtq.classic.heartbeats import _line
from yadtq.cli import build
from yadtq.cli.worker import SHOWN, WARNED, show
from yadtq.dev import services
from yadtq.errors import BrokerUnavailable, InvalidOptions, LedgerUnavailable, ServiceError, SettingsError
from yadtq.ledger import Beat, WorkerRecord
from yadtq.ledger.memory import MemoryLedger
from yadtq.monitor import Monitor
from yadtq.runners.loading import find
from yadtq.task import Call, Task
from yadtq.telemetry import EVENTS, Event, Telemetry
from yadtq.within import Running

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("number", ["0", "1001", "x", "²", "-1"])
def test_a_number_of_partitions_that_is_none_is_refused_in_a_short_line(
    number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        producer._parser().parse_args(["tasks", "--", number])
    assert left.value.code == 2
    assert capsys.readouterr().err.endswith(f"error: argument partitions: a number from 1 to 1000, not {number!r}\n")


def test_the_number_of_partitions_is_read() -> None:
    assert [producer._parser().parse_args(["tasks", text]).partitions for text in ("1", "1000")] == [1, 1000]


IMPORTED = "from shop_of_test import prices\n"
PRICES = "import json\n\n\ndef read():\n    json.loads('[')\n\n\nread()\n"


@pytest.mark.parametrize(
    ("app", "problem", "lines"),
    [
        ("import requets\n", "ModuleNotFoundError: No module named 'requets'", ["APP:1: import requets"]),
        ("def f(:\n", r"SyntaxError: invalid syntax \(\w+.py, line 1\)", ["APP:1: def f(:"]),
        ("import sys\nsys.exit(3)\n", r"it ends the process, by SystemExit\(3\)", ["APP:2: sys.exit(3)"]),
        ("import yadtq\nyadtq.Nothing\n", "AttributeError: .* no attribute 'Nothing'", ["APP:2: yadtq.Nothing"]),
        (
            IMPORTED,
            "JSONDecodeError: .*",  # its own frames, of the standard library, are left out
            [
                "APP:1: from shop_of_test import prices",
                "shop_of_test/prices.py:8: read()",
                "shop_of_test/prices.py:5: json.loads('[')",
            ],
        ),
    ],
)
def test_an_app_that_cannot_be_imported_is_told_by_the_users_own_lines(
    app: str, problem: str, lines: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    (tmp_path / "shop_of_test").mkdir()
    (tmp_path / "shop_of_test/prices.py").write_text(PRICES)
    (tmp_path / "app_of_test.py").write_text(app)
    told = CliRunner().invoke(build(), ["worker", "app_of_test:app"])
    assert isinstance(told.exception, SettingsError)  # one that `main` prints, with exit code 1
    first, *rest = str(told.exception).splitlines()
    assert re.fullmatch(f"module 'app_of_test' cannot be imported: {problem}", first)
    assert rest == [f"  {line.replace('APP', 'app_of_test.py')}" for line in lines]


def test_ctrl_c_while_an_app_is_imported_stays_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "slow_of_test.py").write_text("raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        find("slow_of_test")


def test_a_module_alone_stands_for_its_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "short_of_test.py").write_text("app, other = 'its app', 'another'\n")
    assert find("short_of_test") == find("short_of_test:app") == "its app"
    assert find("short_of_test:other") == "another"
    assert find("short_of_test:none") is None


@pytest.mark.parametrize("words", [["--partitions", "0"], ["--grace", "-1"]])
def test_a_worker_refuses_numbers_that_it_cannot_use(words: list[str]) -> None:
    told = CliRunner().invoke(build(), ["worker", "nowhere:app", *words])
    assert told.exit_code == 2  # wrong arguments; with good ones it looks for the module
    assert "greater than or equal to" in told.output


def test_the_demo_refuses_another_folder_before_it_starts_services(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[object] = []
    monkeypatch.setattr(services.Services, "up", lambda self: started.append(self))
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(build(), ["demo"])
    assert isinstance(told.exception, ServiceError)
    assert "is not the project's folder" in str(told.exception)
    assert not started


def test_the_version_can_be_asked() -> None:
    told = CliRunner().invoke(build(), ["--version"])
    assert (told.exit_code, told.output) == (0, f"yadtq {version('yadtq')}\n")


def test_the_monitor_tells_who_left_from_who_is_silent() -> None:
    def line(status: str, age_ms: int, left: bool = False) -> str:
        return _line(WorkerRecord("w", status, 0, age_ms, host="h", left=left), 10)

    assert line("ALIVE", 400) == "w is ALIVE (last beat 0.4 s ago, on h)"
    assert line("DEAD", 2_500, left=True) == "w is DEAD (it left, last beat 2.5 s ago)"
    assert line("DEAD", 60_000, left=True) == "w is DEAD (it left, last beat 60.0 s ago)"
    assert line("DEAD", 10_200) == "w is DEAD (last beat 10.2 s ago, allowed are 10 s)"


def test_the_monitor_of_a_topic_tells_of_its_workers_and_of_those_that_name_none() -> None:
    ledger = MemoryLedger()
    for name, topic in (("here", "q"), ("there", "other"), ("somewhere", "")):
        ledger.beat(Beat(name, "1", 10_000, topic, first=True))

    def told(topic: str | None) -> list[str]:
        workers: list[WorkerRecord] = []
        Monitor(ledger, 10.0, Telemetry(), workers.append, topic=topic).look()
        return sorted(worker.name for worker in workers)

    assert told("q") == ["here", "somewhere"]
    assert told(None) == ["here", "somewhere", "there"]


def test_a_line_of_the_log_has_the_fields_that_apply(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "yadtq"):
        show(Event("committed", 3, 0))
        show(Event("failed", 1, 7, "id", 2, "ValueError: no"))
        show(Event("overdue", detail="30 s of grace"))
    assert [record.getMessage() for record in caplog.records] == [
        "committed partition 3 offset 0",
        "failed partition 1 offset 7 id attempt 2 ValueError: no",
        "overdue 30 s of grace",
    ]
    assert {"failed", "reloaded"} <= SHOWN


def test_what_somebody_should_look_at_is_a_warning_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "yadtq"):
        for kind in ("unavailable", "runner_died", "available", "runner_started", "failed", "reloaded"):
            show(Event(kind))
    assert [(record.getMessage(), record.levelname) for record in caplog.records] == [
        ("unavailable", "WARNING"),
        ("runner_died", "WARNING"),
        ("available", "INFO"),
        ("runner_started", "INFO"),
        ("failed", "INFO"),
        ("reloaded", "INFO"),
    ]
    assert set(EVENTS) >= SHOWN
    documented = (ROOT / "docs/configuration.md").read_text().split("level WARNING:")[1].split(";")[0]
    assert {word.strip("` ,\n") for word in documented.split()} == WARNED


@pytest.fixture
def nothing() -> Task[[], None]:
    app = App("demo", broker=MemoryBroker(), ledger=MemoryLedger())

    @app.task
    def nothing() -> None: ...

    app.ensure_queue("demo")
    return nothing


def test_an_empty_task_id_is_refused_and_none_is_made_up(nothing: Task[[], None]) -> None:
    with pytest.raises(
        InvalidOptions, match=r"^task 'nothing' cannot be submitted: task_id has 1 to 200 characters, not 0"
    ):
        nothing.using(task_id="").submit()


def test_a_task_is_refused_an_empty_id_for_what_it_submits(nothing: Task[[], None]) -> None:
    sent: list[str | None] = []

    def port(attempt: Attempt, calls: Sequence[Call]) -> "Future[list[str]]":
        sent.extend(call.options.task_id for call in calls)
        return Future()

    attempt = Attempt(1, "parent", "nothing", b"[]", b"{}", 1, "fence")
    Running(attempt, port).publish([Call("nothing", b"[]", b"{}", nothing.using(task_id="").options)])
    assert sent == [""]  # the worker refuses it, as everywhere


class Starting(MemoryBroker):
    """Does not answer the first questions."""

    def __init__(self, unanswered: int) -> None:
        super().__init__()
        self.unanswered = unanswered

    def check(self) -> None:
        if self.unanswered:
            self.unanswered -= 1
            raise BrokerUnavailable("Kafka does not answer: Connection refused")


def test_a_submit_waits_for_a_kafka_that_starts_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(publisher, "UNREACHED_AGAIN_S", 0.0)
    monkeypatch.setattr(publisher, "UNREACHED_S", math.inf)
    app = App("q", broker=Starting(3), ledger=MemoryLedger())
    app.task(name="add")(lambda: None).submit()
    assert [record.getMessage() for record in caplog.records] == [
        "nothing is published yet, trying again: Kafka does not answer: Connection refused"
    ]
    monkeypatch.setattr(publisher, "UNREACHED_S", 0.0)
    app = App("q", broker=Starting(1), ledger=MemoryLedger())
    with pytest.raises(BrokerUnavailable, match="Connection refused"):
        app.task(name="add")(lambda: None).submit()


def test_the_producer_says_once_that_kafka_does_not_answer_and_that_it_does(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(producer, "AGAIN_S", 0.0)
    console, telemetry = Console("producer"), Telemetry()
    telemetry.listen(lambda event: producer._show(console, event))
    lines = producer.LineProducer(App("q", broker=Starting(3), ledger=MemoryLedger()), "q", "g", console, telemetry)
    lines.open(1)
    assert [line.split(": ", 1)[1] for line in capfd.readouterr().out.splitlines()] == [
        "Kafka does not answer: Connection refused; trying again",
        "Kafka answers again",
    ]


@pytest.mark.parametrize(("again_s", "warnings"), [(math.inf, 1), (0.0, 3)])
def test_late_records_are_warned_of_now_and_then_and_not_at_each_submit(
    again_s: float,
    warnings: int,
    nothing: Task[[], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def down(self: MemoryLedger, tasks: object) -> None:
        raise LedgerUnavailable("Redis does not answer")

    monkeypatch.setattr(MemoryLedger, "queued", down)
    monkeypatch.setattr(publisher, "WARN_AGAIN_S", again_s)
    for _ in range(3):
        nothing.submit()
    assert sum("their QUEUED record is late" in record.getMessage() for record in caplog.records) == warnings
