"""The lines of a task file: which are published, and what is said of the others."""

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from yadtq.app import App
from yadtq.broker.memory import MemoryBroker
from yadtq.classic.console import Console
from yadtq.classic.lines import BOM, LINE_BYTES, Line, read_lines
from yadtq.classic.producer import LineProducer
from yadtq.ledger.memory import MemoryLedger
from yadtq.telemetry import Telemetry

Publish = Callable[[bytes], tuple[list[str], bool]]
GOOD = {"task_id": "1", "task_type": "add", "task_args": [1, 2], "task_tries": 0}


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[bytes], int]]:
    """Writes a file and opens it to be read."""
    with contextlib.ExitStack() as files:

        def open_file(data: bytes) -> int:
            path = tmp_path / "tasks.txt"
            path.write_bytes(data)
            return files.enter_context(path.open("rb", buffering=0)).fileno()

        yield open_file


@pytest.fixture
def published(opened: Callable[[bytes], int]) -> Publish:
    """Publishes lines; gives the ids that reach Kafka, and whether `end` came."""

    def publish(data: bytes) -> tuple[list[str], bool]:
        broker = MemoryBroker()
        lines = LineProducer(
            App("q", broker=broker, ledger=MemoryLedger()), "q", "workers", Console("producer"), Telemetry()
        )
        lines.open(1)
        ended = lines.publish_all(opened(data))
        return [json.loads(record.value)["task_id"] for record in broker.logs["q"][0]], ended

    return publish


def test_a_line_with_a_field_that_nobody_reads_is_named_with_the_fields_there_are(
    published: Publish,
    capfd: pytest.CaptureFixture[str],
) -> None:
    rows = [GOOD, {**GOOD, "task_id": "2", "task_arg": [3]}, {**GOOD, "task_id": "3"}]
    assert published("\n".join(map(json.dumps, rows)).encode()) == (["1", "3"], False)
    said = capfd.readouterr().out
    assert "line 2 skipped: Object contains unknown field `task_arg`" in said
    assert "; known are task_id, task_type, task_args, task_tries\n" in said
    assert said.count("skipped") == 1


def test_tries_may_be_left_out_and_nothing_else(published: Publish, capfd: pytest.CaptureFixture[str]) -> None:
    rows = [{name: value for name, value in GOOD.items() if name != left_out} for left_out in reversed(GOOD)]
    assert published("\n".join(map(json.dumps, rows)).encode()) == (["1"], False)
    assert re.findall(r"line (\d) skipped: Object missing required field `(\w+)`", capfd.readouterr().out) == [
        ("2", "task_args"),
        ("3", "task_type"),
        ("4", "task_id"),
    ]


def test_skipped_lines_are_named_in_their_order_whatever_is_wrong_with_them(
    published: Publish, capfd: pytest.CaptureFixture[str]
) -> None:
    good = json.dumps(GOOD).encode()
    assert published(b"\n".join([b"no JSON", good, good, b"no JSON", good])) == (["1"], False)
    assert re.findall(r"line (\d) skipped", capfd.readouterr().out) == ["1", "3", "4", "5"]


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\nend\n"])
def test_a_file_may_begin_with_a_byte_order_mark(
    end: bytes, published: Publish, capfd: pytest.CaptureFixture[str]
) -> None:
    assert published(BOM + json.dumps(GOOD).encode() + end) == (["1"], b"end" in end)
    assert "skipped" not in capfd.readouterr().out


@pytest.mark.parametrize("data", [BOM + b"end", BOM + b"end\n"])
def test_a_byte_order_mark_does_not_hide_the_end(data: bytes, published: Publish) -> None:
    assert published(data) == ([], True)


def test_a_byte_order_mark_counts_nowhere_else(opened: Callable[[bytes], int]) -> None:
    assert list(read_lines(opened(BOM + b"\n" + BOM + b"a\n"))) == [Line(2, BOM + b"a")]
    assert list(read_lines(opened(BOM + b"x" * LINE_BYTES + b"\nb"))) == [Line(1, b"x" * LINE_BYTES), Line(2, b"b")]
