"""Dead letters on the memory ports: found, shown and replayed, whatever lies there."""

import hashlib
import random
from collections.abc import Iterator, Mapping

import msgspec
import pytest
from stage import Player, Stage

from yadtq.attempt import Ending
from yadtq.broker import Message, Report
from yadtq.codec import decode, encode
from yadtq.deadletters import DeadLetters, Letter, Wanted, letter_item, shown_bytes
from yadtq.envelope import Envelope
from yadtq.errors import BrokerUnavailable, NoDeadLetter, NotReplayable, ReplayUnknown, SettingsError, UnknownQueue
from yadtq.layout import DEAD_CONFIG, HEADER_KEY, HEADER_REASON, HEADER_REPLAYED, HEADER_SOURCE, HEADER_TASK, Layout
from yadtq.replay import RAW, Edit, Replayer, edit_of

Q = "q"
NONE: Mapping[str, bytes] = {}


class Desk:
    """A stage whose dead letters are looked at and replayed."""

    def __init__(self, partitions: int = 2) -> None:
        self.stage = Stage(partitions, tasks=("add", "mul"))
        self.letters = DeadLetters(self.stage.broker, Layout())
        self.replayer = Replayer(self.stage.broker, self.stage.ledger, Layout())

    def put(
        self,
        value: bytes,
        *,
        reason: str = "boom",
        source: str = "q/1/7",
        task: str = "",
        headers: Mapping[str, bytes] = NONE,
    ) -> str:
        """A dead letter as a worker writes it; returns its id."""
        known = {HEADER_REASON: reason.encode(), HEADER_SOURCE: source.encode()}
        if task:
            known[HEADER_TASK] = task.encode()
        report = self.stage.broker.append(Message("q.dlq", value, task.encode() or None, 0, {**headers, **known}))
        assert report.error is None, report
        return f"{report.partition}/{report.offset}"

    def put_task(self, task_id: str, task_type: str = "add", headers: Mapping[str, bytes] = NONE) -> str:
        envelope = Envelope(task_id=task_id, task_type=task_type, task_args=msgspec.Raw(b"[1]"), task_tries=2)
        return self.put(encode(envelope), task=task_id, source=f"q/1/{abs(hash(task_id)) % 10_000}", headers=headers)

    @property
    def published(self) -> list[Envelope]:
        return [decode(record.value) for record in self.stage.lying_in("q")]

    def ids(self, *, most: int = 50, **wanted: object) -> list[str]:
        return [letter.letter_id for letter in self.letters.page(Q, Wanted(**wanted), most).letters]  # type: ignore[arg-type]

    def replay(self, letter_id: str, **how: object) -> str:
        return self.replayer.replay(self.letters.find(Q, letter_id), **how).task_id  # type: ignore[arg-type]


@pytest.fixture
def desk() -> Desk:
    return Desk()


def fail(desk: Desk, *task_ids: str) -> Player:
    player = desk.stage.player()
    desk.stage.publish(*task_ids, partition=1, max_attempts=1)
    player.work(ending=Ending.RAISED)
    return player


def test_a_queue_without_dead_letters_has_an_empty_list(desk: Desk) -> None:
    assert desk.letters.page(Q).letters == []
    assert desk.letters.page(Q).before is None
    assert desk.replayer.replay_all(Q).replayed == 0


def test_a_failed_task_is_listed_with_its_reason_its_source_and_its_bytes(desk: Desk) -> None:
    fail(desk, "t1")
    (listed,) = desk.letters.page(Q).letters
    assert (listed.task_id, listed.task_type, listed.reason) == ("t1", "add", "boom")
    assert str(listed.source) == "q/1/0"
    assert listed.data == b""  # a list does not hold the bytes of all
    found = desk.letters.find(Q, "0/0")
    assert found == desk.letters.find(Q, "t1")
    assert found.envelope is not None
    assert bytes(found.envelope.task_args) == b"[1]"


def test_a_replay_is_a_new_task_that_runs_and_names_the_original(desk: Desk) -> None:
    player = fail(desk, "t1")
    task_id = desk.replay("t1")
    player.work()
    assert desk.stage.record("t1").status == "FAILED"
    assert desk.stage.record(task_id).status == "SUCCESS"
    replayed = desk.published[-1]
    assert (replayed.replay_of, replayed.task_type, bytes(replayed.task_args)) == ("t1", "add", b"[1]")
    assert desk.letters.find(Q, "t1").replays == (task_id,)


def test_a_replay_starts_with_fresh_attempts(desk: Desk) -> None:
    desk.put_task("t1")
    desk.replay("t1")
    assert desk.published[0].task_tries == 0


def test_a_replay_has_a_queued_record_at_once(desk: Desk) -> None:
    desk.put_task("t1")
    assert desk.stage.record(desk.replay("t1")).status == "QUEUED"


def test_the_same_replay_twice_is_one_task(desk: Desk) -> None:
    desk.put_task("t1")
    letter = desk.letters.find(Q, "t1")
    first = desk.replayer.replay(letter)
    assert not first.before
    second = desk.replayer.replay(desk.letters.find(Q, "t1"))
    assert second.before
    assert second.task_id == first.task_id
    assert len(desk.published) == 1
    # Two at once see no note of each other; the same id makes them one task.
    assert desk.replayer.replay(letter).task_id == first.task_id


def test_again_makes_another_task_each_time(desk: Desk) -> None:
    desk.put_task("t1")
    ids = {desk.replay("t1"), desk.replay("t1", again=True), desk.replay("t1", again=True)}
    assert len(ids) == 3
    assert set(desk.letters.find(Q, "t1").replays) == ids


def test_a_letter_that_was_written_twice_is_replayed_once(desk: Desk) -> None:
    value = encode(Envelope(task_id="t1", task_type="add"))
    for _ in range(2):
        desk.put(value, task="t1")
    summary = desk.replayer.replay_all(Q)
    assert (summary.replayed, summary.before) == (1, 1)
    assert [letter.replays for letter in desk.letters.page(Q).letters] == [(desk.published[0].task_id,)] * 2


def test_edited_arguments_are_what_runs(desk: Desk) -> None:
    desk.put_task("t1")
    desk.replay("t1", edit=edit_of("mul", "[5, 6]", '{"a": 1}'))
    (replayed,) = desk.published
    assert (replayed.task_type, bytes(replayed.task_args), bytes(replayed.task_kwargs)) == (
        "mul",
        b"[5, 6]",
        b'{"a": 1}',
    )
    assert desk.replay("t1", edit=edit_of(None, "[7]", None)) != replayed.task_id
    assert desk.published[1].task_type == "add"


@pytest.mark.parametrize(
    ("args", "kwargs"), [("{}", None), ("1", None), (None, "[]"), ("[", None), ("", None), ("[" * 100_000, None)]
)
def test_edits_that_are_not_the_json_they_have_to_be_are_refused(args: str | None, kwargs: str | None) -> None:
    with pytest.raises(NotReplayable, match="arguments"):
        edit_of(None, args, kwargs)


def test_bytes_that_are_no_envelope_run_with_a_name_and_arguments(desk: Desk) -> None:
    letter_id = desk.put(b"\xff\x00 not json", reason="not an envelope")
    with pytest.raises(NotReplayable, match="cannot run as it is"):
        desk.replay(letter_id)
    with pytest.raises(NotReplayable, match="cannot run as it is"):
        desk.replay(letter_id, edit=Edit(args=b"[1]"))
    assert desk.published == []
    desk.replay(letter_id, edit=edit_of("add", "[1]", None))
    assert desk.published[0].replay_of == "q.dlq/0/0"
    assert len(desk.letters.find(Q, letter_id).replays) == 1


def test_bytes_of_a_newer_version_can_be_replayed_as_they_are(desk: Desk) -> None:
    value = b'{"task_id":"new","task_type":"add","version":2,"shiny":true}'
    letter_id = desk.put(value, headers={"trace": b"1"})
    with pytest.raises(NotReplayable, match="version 2 is newer"):
        desk.replay(letter_id)
    assert desk.replay(letter_id, raw=True) == "new"
    (record,) = desk.stage.lying_in("q")
    assert record.value == value
    assert record.headers == {"trace": b"1"}
    assert desk.replayer.replay(desk.letters.find(Q, letter_id), raw=True).before


def test_raw_is_refused_for_what_has_ended_and_names_what_it_can(desk: Desk) -> None:
    desk.put_task("t1")
    with pytest.raises(NotReplayable, match="an end never changes"):
        desk.replay("t1", raw=True)
    assert desk.replay(desk.put(b"[1]"), raw=True) == RAW


def test_a_replay_goes_back_to_its_partition_or_by_its_key(desk: Desk) -> None:
    desk.put_task("t1")
    desk.replay("t1")
    assert desk.stage.lying_in("q")[0].partition == 1
    desk.put_task("t2", headers={HEADER_KEY: b"customer-1"})
    desk.replay("t2")
    assert desk.stage.lying_in("q")[-1].key == b"customer-1"
    desk.put(encode(Envelope(task_id="t3", task_type="add")), task="t3", source="q/99/0")
    desk.replay("t3")  # the topic has no such partition any more


def test_the_ordering_key_of_a_task_that_failed_is_kept(desk: Desk) -> None:
    player = desk.stage.player()
    envelope = Envelope(task_id="t1", task_type="add", task_args=msgspec.Raw(b"[1]"), max_attempts=1)
    desk.stage.broker.append(Message("q", encode(envelope), b"customer-7", 1))
    player.work(ending=Ending.RAISED)
    desk.replay("t1")
    assert desk.stage.lying_in("q")[-1].key == b"customer-7"


def test_what_was_too_large_to_copy_is_read_from_its_source(desk: Desk) -> None:
    value = encode(Envelope(task_id="big", task_type="add", task_args=msgspec.Raw(b'["%s"]' % (b"x" * 5_000))))
    desk.stage.broker.append(Message("q", value, b"k", partition=1))
    digest = hashlib.sha256(value).hexdigest()
    letter_id = desk.put(b"", source="q/1/0", task="big", headers={"yadtq-sha256": digest.encode()})
    assert letter_item(desk.letters.page(Q).letters[0])["reference"]
    assert desk.letters.find(Q, letter_id).data == value
    desk.replay(letter_id)
    replayed = desk.stage.lying_in("q")[-1]
    assert len(replayed.value) > 5_000
    assert replayed.key == b"k"


@pytest.mark.parametrize(
    ("source", "why"),
    [("q/1/5", "is gone"), ("nothing/0/0", "is gone"), ("q/7/0", "is gone"), ("?", "is gone"), ("q/1/0", "SHA-256")],
)
def test_a_reference_whose_source_is_gone_says_so(desk: Desk, source: str, why: str) -> None:
    desk.stage.broker.append(Message("q", b"another record", partition=1))
    letter_id = desk.put(b"", source=source, task="big", headers={"yadtq-sha256": b"0" * 64})
    found = desk.letters.find(Q, letter_id)
    assert why in found.problem
    with pytest.raises(NotReplayable, match=why):
        desk.replay(letter_id)
    desk.replay(letter_id, edit=edit_of("add", "[1]", None))
    replayed = decode(desk.stage.lying_in("q")[-1].value)
    assert replayed.replay_of == "big"


def test_a_worker_refers_to_what_is_too_large_and_it_can_be_replayed(desk: Desk) -> None:
    desk.stage.broker.configs["q.dlq"] = {**DEAD_CONFIG, "max.message.bytes": "200"}
    player = desk.stage.player()
    envelope = Envelope(task_id="t1", task_type="add", task_args=msgspec.Raw(b'["%s"]' % (b"x" * 500)), max_attempts=1)
    desk.stage.publish_bytes(encode(envelope), 1)
    player.work(ending=Ending.RAISED)
    desk.stage.clock.turn(2_000)  # the producer's pause
    player.turn(5)
    (listed,) = desk.letters.page(Q).letters
    assert listed.sha256
    desk.replay("t1")
    assert bytes(desk.published[-1].task_args) == bytes(envelope.task_args)


def test_a_list_is_read_newest_first_and_page_by_page(desk: Desk) -> None:
    ids = [desk.put_task(f"t{number}") for number in range(450)]
    desk.replay("t0")
    desk.replay("t449")
    seen: list[Letter] = []
    before = None
    while True:
        page = desk.letters.page(Q, most=70, before=before)
        seen += page.letters
        before = page.before
        if before is None:
            break
    assert [letter.letter_id for letter in seen] == ids[::-1]
    assert [letter.task_id for letter in seen if letter.replays] == ["t449", "t0"]


def test_a_page_that_has_looked_enough_goes_on_in_the_next(desk: Desk) -> None:
    desk.put_task("rare", "mul")
    for number in range(30):
        desk.put_task(f"t{number}")
    page = desk.letters.page(Q, Wanted(task_type="mul"), most_looked=20)
    assert page.letters == []
    page = desk.letters.page(Q, Wanted(task_type="mul"), before=page.before, most_looked=20)
    assert [letter.task_id for letter in page.letters] == ["rare"]


def test_letters_are_filtered_by_reason_type_task_and_time(desk: Desk) -> None:
    one = desk.put(b"x", reason="ValueError: No Luck")
    two = desk.put_task("t1")
    assert desk.ids(reason="no luck") == [one]
    assert desk.ids(task_type="add") == [two]
    assert desk.ids(task_id="t1") == [two]
    at_ms = desk.letters.find(Q, two).at_ms
    assert desk.ids(since_ms=at_ms + 1) == []
    assert desk.ids(since_ms=at_ms)[0] == two
    assert desk.ids(most=1) == [two]


def test_all_are_replayed_in_their_order_and_only_once(desk: Desk) -> None:
    for number in range(250):
        desk.put_task(f"t{number}")
    desk.put(b"junk")
    desk.replay("t7")
    told: list[int] = []
    summary = desk.replayer.replay_all(Q, on_progress=lambda summary: told.append(summary.replayed))
    assert (summary.replayed, summary.before) == (249, 1)
    assert [letter_id for letter_id, _ in summary.refused] == ["0/250"]
    assert told == [100, 200, 249]
    assert [task.replay_of for task in desk.published] == ["t7", *(f"t{at}" for at in range(250) if at != 7)]
    again = desk.replayer.replay_all(Q)
    assert (again.replayed, again.before) == (0, 250)
    assert desk.replayer.replay_all(Q, again=True).replayed == 250


def test_replaying_all_stops_behind_a_limit_and_goes_on_there(desk: Desk) -> None:
    for number in range(30):
        desk.put_task(f"t{number}")
    first = desk.replayer.replay_all(Q, most=20)
    assert (first.replayed, first.more) == (20, True)
    second = desk.replayer.replay_all(Q, most=20)
    assert (second.replayed, second.before, second.more) == (10, 20, False)


def test_a_note_is_no_letter_and_cannot_be_forged_by_a_header(desk: Desk) -> None:
    forged = desk.put(b"x", headers={HEADER_REPLAYED: b"nothing"})
    assert desk.ids() == [forged]
    desk.replay(forged, edit=edit_of("add", "[1]", None))
    assert desk.ids() == [forged]
    with pytest.raises(NoDeadLetter):
        desk.letters.find(Q, "0/1")


@pytest.mark.parametrize("letter_id", ["0/0", "0/99", "5/0", "nobody", "", "0/-1", "/", "0/99999999999999999999"])
def test_an_id_that_is_none_is_said(desk: Desk, letter_id: str) -> None:
    with pytest.raises(NoDeadLetter, match="no dead letter"):
        desk.letters.find(Q, letter_id)


def test_an_unknown_queue_is_said(desk: Desk) -> None:
    with pytest.raises(UnknownQueue, match="known are q"):
        desk.letters.page("Q")
    with pytest.raises(SettingsError):
        desk.letters.page("a queue?")


def test_kafka_that_is_down_is_said_and_nothing_is_lost(desk: Desk) -> None:
    desk.put_task("t1")
    letter = desk.letters.find(Q, "t1")
    desk.stage.broker.down = True
    for ask in (
        lambda: desk.letters.page(Q),
        lambda: desk.replayer.replay(letter),
        lambda: desk.replayer.replay_all(Q),
    ):
        with pytest.raises(BrokerUnavailable):
            ask()


def test_a_replay_without_a_report_has_the_same_id_when_it_is_made_again(desk: Desk) -> None:
    desk.put_task("t1")
    letter, answers = desk.letters.find(Q, "t1"), [Report("timed out")]
    append = desk.stage.broker.append

    def fails_once(message: Message) -> Report:
        return answers.pop() if answers else append(message)

    desk.stage.broker.append = fails_once  # type: ignore[method-assign]
    with pytest.raises(ReplayUnknown, match="Make the same replay once more") as caught:
        desk.replayer.replay(letter)
    assert desk.replayer.replay(letter).task_id == caught.value.task_id


def test_what_kafka_refuses_is_said_and_not_noted(desk: Desk) -> None:
    desk.stage.broker.max_message_bytes = 100
    desk.stage.broker.configs["q"] = {}
    letter_id = desk.put_task("t1")
    with pytest.raises(NotReplayable, match="limit is 100"):
        desk.replay(letter_id)
    assert desk.letters.find(Q, letter_id).replays == ()
    summary = desk.replayer.replay_all(Q)
    assert summary.replayed == 0
    assert len(summary.refused) == 1


def nasty() -> Iterator[bytes]:
    chance = random.Random(7)
    yield from (
        b"",
        b"null",
        b"[]",
        b"{" * 50_000,
        b"\x00",
        b"\xff\xfe",
        b"1e999",
        b'{"task_id":' + b"9" * 5_000 + b"}",
    )
    yield from (chance.randbytes(chance.randrange(300)) for _ in range(50))
    yield b"\x00" * 1_000_000


def test_no_bytes_jam_it(desk: Desk) -> None:
    for value in nasty():
        letter_id = desk.put(value, reason="\x1b[31m\u202e", source=value[:20].decode("latin-1"))
        found = desk.letters.find(Q, letter_id)
        letter_item(found)
        shown_bytes(found.data)
        with pytest.raises(NotReplayable):
            desk.replay(letter_id)
        desk.replay(letter_id, raw=True)
    assert desk.replayer.replay_all(Q).replayed == 0


def test_bytes_are_shown_as_text_with_escapes_or_as_hex() -> None:
    assert shown_bytes(b"a\x1b[31m\nb") == ("a\\x1b[31m\nb", None)
    assert shown_bytes(b"\xff\x00") == (None, "ff 00")
