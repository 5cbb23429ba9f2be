"""`yadtq dlq` on the memory ports: what it prints, and what it refuses."""

import json

import msgspec
import pytest
from terminal import Terminal

from yadtq.broker import Message
from yadtq.cli.dlq import _since_ms
from yadtq.codec import decode, encode
from yadtq.envelope import Envelope
from yadtq.errors import NoDeadLetter, NotReplayable, SettingsError
from yadtq.layout import HEADER_REASON, HEADER_SOURCE, HEADER_TASK


class Letters(Terminal):
    """The command line on a stage with dead letters."""

    def put(self, value: bytes, reason: str = "boom", task: str = "") -> None:
        headers = {HEADER_REASON: reason.encode(), HEADER_SOURCE: f"q/1/{len(self.stage.lying_in('q.dlq'))}".encode()}
        if task:
            headers[HEADER_TASK] = task.encode()
        self.stage.broker.append(Message("q.dlq", value, None, 0, headers))

    def put_task(self, task_id: str, reason: str = "boom") -> None:
        self.put(encode(Envelope(task_id=task_id, task_type="add", task_args=msgspec.Raw(b"[1]"))), reason, task_id)

    @property
    def published(self) -> list[Envelope]:
        return [decode(record.value) for record in self.stage.lying_in("q")]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Letters:
    return Letters(monkeypatch, "dlq")


def test_no_dead_letters_is_an_answer(terminal: Letters) -> None:
    assert terminal.run("list", "q").output == "No dead letters in q.\n"
    assert terminal.run("list", "q", "--json").output == ""
    assert "Nothing to replay" in terminal.run("replay", "q", "--all").output


def test_a_list_names_what_show_and_replay_take(terminal: Letters) -> None:
    terminal.put_task("t1", "ValueError: no\nluck \x1b[31m")
    terminal.put(b"\xff")
    listed = terminal.run("list", "q").output
    assert "0/0" in listed
    assert "ValueError: no\\nluck \\x1b[31m" in listed
    assert "\x1b" not in listed
    assert "1 shown" in terminal.run("list", "q", "--limit", "1").output
    assert [json.loads(line)["id"] for line in terminal.run("list", "q", "--json").output.splitlines()] == [
        "0/1",
        "0/0",
    ]
    assert "No dead letters that fit" in terminal.run("list", "q", "--reason", "other").output


def test_show_prints_everything_and_nothing_that_a_terminal_obeys(terminal: Letters) -> None:
    terminal.put_task("t1")
    shown = terminal.run("show", "q", "t1").output
    for text in ("reason       boom", "source       q/1/0", "arguments    [1]", '"task_id":"t1"'):
        assert text in shown
    terminal.put(b"a\x1b]0;owned\x07", "\u202eevil")
    shown = terminal.run("show", "q", "0/1").output
    assert "a\\x1b]0;owned\\x07" in shown
    assert "\\u202eevil" in shown
    terminal.put(b"\xff" * 5_000)
    assert "5,000 bytes, no envelope" in terminal.run("show", "q", "0/2").output
    assert json.loads(terminal.run("show", "q", "0/2", "--json").output)["hex"].startswith("ff ff")


def test_replay_says_the_new_id_and_that_it_was_before(terminal: Letters) -> None:
    terminal.put_task("t1")
    first = terminal.run("replay", "q", "t1").output
    (task,) = terminal.published
    assert first == f"0/0 is replayed as task {task.task_id}\n"
    assert "was replayed so before" in terminal.run("replay", "q", "0/0").output
    assert f"replayed as  {task.task_id}" in terminal.run("show", "q", "t1").output
    terminal.run("replay", "q", "0/0", "--args", "[9]", "--again")
    assert [bytes(task.task_args) for task in terminal.published] == [b"[1]", b"[9]"]


def test_replaying_all_is_confirmed_by_a_flag_where_nobody_can_be_asked(terminal: Letters) -> None:
    terminal.put_task("t1")
    terminal.put_task("t2", "other")
    terminal.put(b"junk")
    refused = terminal.run("replay", "q", "--all", fails=SettingsError)
    assert "3 dead letters of q would be replayed: say --yes" in str(refused.exception)
    assert terminal.published == []
    assert "1 replayed" in terminal.run("replay", "q", "--all", "--reason", "other", "--yes").output
    result = terminal.run("replay", "q", "--all", "--yes", fails=SystemExit)
    assert result.exit_code == 1
    assert "1 replayed, 1 before, 1 cannot be" in result.output
    assert "0/2: dead letter 0/2 cannot run as it is" in result.output


def test_one_dead_letter_is_one_and_not_several(terminal: Letters) -> None:
    terminal.put_task("t1")
    refused = terminal.run("replay", "q", "--all", fails=SettingsError)
    assert str(refused.exception) == "1 dead letter of q would be replayed: say --yes"
    terminal.run("replay", "q", "--all", "--yes")
    assert terminal.run("replay", "q", "--all").output == "Nothing to replay in q (1 was replayed before).\n"


@pytest.mark.parametrize(
    "words",
    [
        ["replay", "q"],
        ["replay", "q", "0/0", "--all"],
        ["replay", "q", "--all", "--args", "[]"],
        ["replay", "q", "--all", "--raw"],
        ["replay", "q", "0/0", "--since", "2h"],
        ["replay", "q", "0/0", "--raw", "--args", "[]"],
        ["list", "q", "--since", "yesterday"],
    ],
)
def test_words_that_do_not_go_together_are_refused(terminal: Letters, words: list[str]) -> None:
    terminal.put_task("t1")
    terminal.run(*words, fails=SettingsError)
    assert terminal.published == []


def test_wrong_ids_and_arguments_are_said(terminal: Letters) -> None:
    terminal.put_task("t1")
    terminal.run("show", "q", "9/9", fails=NoDeadLetter)
    terminal.run("replay", "q", "t1", "--args", "{}", fails=NotReplayable)
    assert terminal.published == []


def test_since_is_an_age_or_a_moment() -> None:
    assert _since_ms("90s", 100_000) == 10_000
    assert _since_ms("1970-01-01T00:00:01", 0) == 1_000
    assert _since_ms("1970-01-01T01:00:00+01:00", 5) == 0
