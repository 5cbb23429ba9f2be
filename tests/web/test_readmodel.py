"""The read model: rows are exact after any crash, in any order of arrival."""

import itertools
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from yadtq.broker import Record
from yadtq.codec import OutcomeRecord, encode
from yadtq.envelope import Envelope
from yadtq.states import State
from yadtq.web.listing import TOP, Cursor, Filter, Listing
from yadtq.web.readmodel import Foreign, ReadModel, Rebuilt, Role, Source

SOURCES = {
    "q": Source("q", Role.TASKS, "q"),
    "q.outcomes": Source("q", Role.OUTCOMES, "q"),
    "q.dlq": Source("q", Role.DEAD, "q"),
    "q.delayed": Source("q", Role.DELAYED, "q"),
}


def envelope(at: int, task_id: str = "", task_type: str = "add", queued_at_ms: int | None = None) -> Record:
    moment = 1_000 + at if queued_at_ms is None else queued_at_ms
    value = Envelope(
        task_id=task_id or f"t{at}", task_type=task_type, task_args=msgspec.Raw(b"[1, 2]"), queued_at_ms=moment
    )
    return Record("q", 0, at, encode(value), timestamp_ms=77)


def delayed(at: int, task_id: str = "t", generation: int = 0) -> Record:
    value = Envelope(task_id=task_id, task_type="add", generation=generation, not_before_ms=9_000, queued_at_ms=1_000)
    return Record("q.delayed", 0, at, encode(value), task_id.encode())


def fired(at: int, task_id: str = "t", generation: int = 0) -> Record:
    value = Envelope(task_id=task_id, task_type="add", generation=generation, not_before_ms=9_000, queued_at_ms=1_000)
    return Record("q", 0, at, encode(value))


def marker(at: int, epoch: bytes, partition: int = 0) -> Record:
    return Record("q.outcomes", partition, at, b'{"epoch": %s}' % epoch, None, {"yadtq-marker": b"1"})


def outcome(at: int, task_id: str = "", state: State = State.SUCCESS, **more: object) -> Record:
    facts: dict[str, object] = {
        "task_id": task_id or f"t{at}",
        "task_type": "add",
        "state": state,
        "attempts": 1,
        "fence": "1.1",
        "result": msgspec.Raw(b"3"),
        "queued_at_ms": 1_000 + at,
        "topic": "q",
        "partition": 0,
        "offset": at,
    }
    return Record("q.outcomes", 0, at, encode(msgspec.convert(facts | more, OutcomeRecord)))


def rows_of(model: ReadModel) -> list[tuple[str, State, str | None]]:
    return [(row.task_id, row.status, row.result) for row in Listing(model).newest(Filter(), TOP, 10_000)]


def assert_exact(model: ReadModel) -> None:
    """The counts that triggers keep are what counting the rows gives."""
    listing = Listing(model)
    counted = Counter((row.queue, row.task_type, row.status) for row in listing.newest(Filter(), TOP, 10_000))
    assert {(at.queue, at.task_type, at.status): at.tasks for at in listing.counts()} == dict(counted)


@pytest.fixture
def model(tmp_path: Path) -> ReadModel:
    return ReadModel(tmp_path / "readmodel.sqlite")


def test_an_envelope_and_its_outcome_make_one_finished_row_in_either_order(tmp_path: Path) -> None:
    for number, order in enumerate(itertools.permutations([envelope(0), outcome(0)])):
        model = ReadModel(tmp_path / f"{number}.sqlite")
        for record in order:
            model.apply([record], SOURCES)
        (row,) = Listing(model).newest(Filter(), TOP, 10)
        assert (row.task_id, row.status, row.task_args, row.result) == ("t0", State.SUCCESS, "[1, 2]", "3")
        assert (row.queued_at_ms, row.topic, row.partition, row.offset) == (1_000, "q", 0, 0)
        assert_exact(model)


def test_the_first_final_outcome_counts(model: ReadModel) -> None:
    first, second = outcome(0, "t", State.FAILED, error_log="first"), outcome(1, "t", State.SUCCESS)
    model.apply([envelope(0, "t"), first, second], SOURCES)
    (row,) = Listing(model).newest(Filter(), TOP, 10)
    assert (row.status, row.error_log, row.result) == (State.FAILED, "first", None)
    assert_exact(model)


def test_a_task_submitted_twice_is_one_row(model: ReadModel) -> None:
    model.apply([envelope(0, "t"), envelope(1, "t"), outcome(0, "t"), envelope(2, "t")], SOURCES)
    assert rows_of(model) == [("t", State.SUCCESS, "3")]
    assert_exact(model)


def test_what_waits_for_a_time_is_scheduled_until_it_fires(model: ReadModel) -> None:
    model.apply([delayed(0)], SOURCES)
    (row,) = Listing(model).newest(Filter(status=State.SCHEDULED), TOP, 10)
    assert (row.not_before_ms, row.topic, row.task_args) == (9_000, "q.delayed", "[]")
    model.apply([Record("q.delayed", 0, 1, b"", b"t")], SOURCES)  # the tombstone of the firing
    assert rows_of(model) == [("t", State.SCHEDULED, None)]
    model.apply([fired(0)], SOURCES)
    (row,) = Listing(model).newest(Filter(), TOP, 10)
    assert (row.status, row.topic, row.offset) == (State.QUEUED, "q", 0)
    assert [row.task_id for row in Listing(model).waiting(10)] == ["t"]
    assert Listing(model).oddities() == {}
    assert_exact(model)


def test_a_scheduled_retry_is_followed_in_whatever_order_the_topics_are_read(tmp_path: Path) -> None:
    story = [
        [fired(0), fired(1, generation=1), fired(2, generation=2)],
        [delayed(0, generation=1), delayed(2, generation=2)],
        [retry(0, generation=1), retry(1, generation=2)],
    ]
    for number, order in enumerate(interleaved(story)):
        model = ReadModel(tmp_path / f"{number}.sqlite")
        for record in order:
            model.apply([record], SOURCES)
        (row,) = Listing(model).newest(Filter(), TOP, 10)
        assert (row.status, row.topic, row.offset, row.attempts) == (State.QUEUED, "q", 2, 2), order
        assert row.error_log == "failed 2"
        model.apply([outcome(2, "t", generation=2)], SOURCES)
        assert rows_of(model) == [("t", State.SUCCESS, "3")]
        assert_exact(model)
        model.close()


def retry(at: int, generation: int) -> Record:
    more = {
        "generation": generation,
        "not_before_ms": 9_000,
        "attempts": generation,
        "error_log": f"failed {generation}",
    }
    return outcome(at, "t", State.SCHEDULED, **more)


def interleaved(lanes: list[list[Record]]) -> Iterator[list[Record]]:
    """Every order that keeps the order within each topic."""
    if not any(lanes):
        yield []
    for number, lane in enumerate(lanes):
        if lane:
            rest = [*lanes[:number], lane[1:], *lanes[number + 1 :]]
            yield from ([lane[0], *order] for order in interleaved(rest))


def test_a_retry_that_waits_is_scheduled_and_shows_why(model: ReadModel) -> None:
    model.apply([envelope(0, "t"), retry(0, generation=1)], SOURCES)
    (row,) = Listing(model).newest(Filter(), TOP, 10)
    assert (row.status, row.error_log, row.not_before_ms, row.attempts) == (State.SCHEDULED, "failed 1", 9_000, 1)


def test_a_record_that_is_not_final_never_overrides_an_end(model: ReadModel) -> None:
    model.apply([envelope(0, "t"), outcome(0, "t"), retry(1, generation=1), delayed(0, generation=1)], SOURCES)
    model.apply([fired(1, generation=1)], SOURCES)
    assert rows_of(model) == [("t", State.SUCCESS, "3")]


def test_an_outcome_of_an_older_life_behind_the_marker_is_ignored(model: ReadModel) -> None:
    model.apply([envelope(0, "t"), marker(7, b"7"), outcome(8, "t", fence="3.9")], SOURCES)
    assert rows_of(model) == [("t", State.QUEUED, None)]
    model.apply([outcome(9, "t", State.FAILED, fence="7.1", error_log="no")], SOURCES)
    assert rows_of(model) == [("t", State.FAILED, None)]
    assert Listing(model).oddities() == {}


def test_the_marker_is_remembered_with_the_position_and_holds_for_its_partition(tmp_path: Path) -> None:
    path = tmp_path / "f.sqlite"
    first = ReadModel(path)
    first.apply([marker(7, b"7"), marker(8, b"5")], SOURCES)
    first.close()
    model = ReadModel(path)
    elsewhere = outcome(0, "free", fence="3.1")
    model.apply([outcome(9, "t", fence="6.1"), Record("q.outcomes", 1, 0, elsewhere.value)], SOURCES)
    assert [row[0] for row in rows_of(model)] == ["free"]


def test_the_newest_life_has_the_last_word_and_in_it_the_first(model: ReadModel) -> None:
    old = outcome(0, "t", State.FAILED, fence="1.5", error_log="old")
    new, later = outcome(2, "t", fence="2.1"), outcome(3, "t", State.FAILED, fence="2.2", error_log="later")
    model.apply([old, marker(1, b"2"), new, later], SOURCES)
    assert rows_of(model) == [("t", State.SUCCESS, "3")]


@pytest.mark.parametrize("epoch", [b"", b"\xff", b"nonsense", b"9" * 40])
def test_a_marker_that_names_no_epoch_harms_nobody(model: ReadModel, epoch: bytes) -> None:
    model.apply([marker(0, epoch, partition=1), Record("q.outcomes", 1, 1, outcome(0, "t").value)], SOURCES)
    assert rows_of(model) == [("t", State.SUCCESS, "3")]


def test_a_replay_and_its_original_name_each_other(model: ReadModel) -> None:
    values = [Envelope(task_id=name, task_type="add", replay_of=of) for name, of in (("a", ""), ("b", "a"), ("c", "a"))]
    model.apply([Record("q", 0, at, encode(value), timestamp_ms=at) for at, value in enumerate(values)], SOURCES)
    listing = Listing(model)
    assert listing.replays("a") == ["c", "b"]
    assert listing.replays("b") == []
    row = listing.one("b")
    assert row is not None
    assert row.replay_of == "a"


def test_bytes_that_are_no_envelope_are_counted_and_are_no_task(model: ReadModel) -> None:
    model.apply([Record("q", 0, 0, b"\xff{"), Record("q", 0, 1, b""), Record("q.dlq", 0, 0, b"\xff{")], SOURCES)
    assert rows_of(model) == []
    assert Listing(model).oddities() == {("q", "undecodable"): 2, ("q", "dead"): 1}


def test_the_note_of_a_replay_is_no_dead_letter(model: ReadModel) -> None:
    letter = Record("q.dlq", 0, 0, b"x", headers={"yadtq-reason": b"boom", "yadtq-replayed": b"of a header of its own"})
    model.apply([letter, Record("q.dlq", 0, 1, b"", headers={"yadtq-replayed": b"t"})], SOURCES)
    assert Listing(model).oddities() == {("q", "dead"): 1}


def test_records_that_are_read_again_change_nothing_wherever_the_process_died(tmp_path: Path) -> None:
    records = [envelope(0), envelope(1), Record("q", 0, 2, b"no"), outcome(0), outcome(1), Record("q.dlq", 0, 0, b"no")]
    once = ReadModel(tmp_path / "once.sqlite")
    once.apply(records, SOURCES)
    for cut in range(len(records) + 1):
        path = tmp_path / f"{cut}.sqlite"
        before = ReadModel(path)
        before.apply(records[:cut], SOURCES)
        before.close()
        again = ReadModel(path)
        again.apply(records, SOURCES)
        assert rows_of(again) == rows_of(once)
        assert Listing(again).oddities() == Listing(once).oddities()
        assert again.positions() == once.positions()
        assert_exact(again)


def test_a_write_that_fails_leaves_neither_rows_nor_positions(model: ReadModel) -> None:
    with pytest.raises(KeyError):
        model.apply([envelope(0), Record("unknown", 0, 0, b"")], SOURCES)
    assert rows_of(model) == []
    assert model.positions() == {}
    model.apply([envelope(0)], SOURCES)
    assert rows_of(model) == [("t0", State.QUEUED, None)]


def test_another_record_where_the_last_one_was_means_another_kafka(model: ReadModel) -> None:
    model.apply([envelope(0), envelope(1)], SOURCES)
    model.apply([envelope(1), envelope(2)], SOURCES)
    with pytest.raises(Foreign):
        model.apply([envelope(2, "somebody-else"), envelope(3)], SOURCES)


def test_a_process_notices_that_another_one_rebuilt_the_file(tmp_path: Path) -> None:
    one, other = ReadModel(tmp_path / "f.sqlite"), ReadModel(tmp_path / "f.sqlite")
    one.apply([envelope(0)], SOURCES)
    other.rebuild()
    with pytest.raises(Rebuilt):
        one.apply([envelope(1)], SOURCES)
    one.apply([envelope(0), envelope(1)], SOURCES)
    assert len(rows_of(other)) == 2


def test_two_processes_may_index_one_file(tmp_path: Path) -> None:
    one, other = ReadModel(tmp_path / "f.sqlite"), ReadModel(tmp_path / "f.sqlite")
    records = [envelope(0), Record("q", 0, 1, b"no"), outcome(0)]
    one.apply(records[:2], SOURCES)
    other.apply(records, SOURCES)
    one.apply(records[2:], SOURCES)
    assert rows_of(one) == [("t0", State.SUCCESS, "3")]
    assert Listing(one).oddities() == {("q", "undecodable"): 1}


def test_a_file_of_another_version_is_rebuilt(tmp_path: Path) -> None:
    path = tmp_path / "f.sqlite"
    old = sqlite3.connect(path)
    old.execute("CREATE TABLE tasks (something TEXT)")
    old.execute("PRAGMA user_version = 9999")
    old.commit()
    old.close()
    model = ReadModel(path)
    model.apply([envelope(0)], SOURCES)
    assert rows_of(model) == [("t0", State.QUEUED, None)]


def test_a_file_that_is_no_database_is_rebuilt(tmp_path: Path) -> None:
    path = tmp_path / "f.sqlite"
    path.write_bytes(b"this is something else" * 1_000)
    model = ReadModel(path)
    model.apply([envelope(0)], SOURCES)
    assert rows_of(model) == [("t0", State.QUEUED, None)]


def test_pages_show_every_row_once_while_others_arrive(model: ReadModel) -> None:
    # Many share a millisecond: the id decides then.
    model.apply([envelope(at, queued_at_ms=5_000 + at // 10) for at in range(100)], SOURCES)
    listing, cursor, seen = Listing(model), TOP, list[str]()
    for number in range(20):
        page = listing.newest(Filter(), cursor, 7)
        seen += [row.task_id for row in page]
        if not page:
            break
        cursor = Cursor(page[-1].queued_at_ms or 0, page[-1].task_id)
        model.apply([envelope(100 + number, queued_at_ms=9_000)], SOURCES)
    assert len(seen) == len(set(seen)) == 100


def test_filters_narrow_by_status_task_and_queue(model: ReadModel) -> None:
    sources = SOURCES | {"r": Source("r", Role.TASKS, "r")}
    other = Record("r", 0, 0, envelope(9, "far").value)
    model.apply([envelope(0), envelope(1, task_type="sub"), outcome(0), other], sources)

    def ids(wanted: Filter) -> list[str]:
        return [row.task_id for row in Listing(model).newest(wanted, TOP, 10)]

    assert ids(Filter(status=State.SUCCESS)) == ["t0"]
    assert ids(Filter(task_type="add")) == ["far", "t0"]
    assert ids(Filter(task_type="add", queue="q")) == ["t0"]
    assert ids(Filter(status=State.FAILED)) == []


@pytest.mark.parametrize("wanted", [Filter(), Filter(status=State.FAILED), Filter(task_type="add", queue="q")])
def test_a_page_is_read_by_index_and_never_by_looking_at_all_rows(model: ReadModel, wanted: Filter) -> None:
    model.apply([envelope(0)], SOURCES)
    statements: list[str] = []
    with model.reading() as db:
        db.set_trace_callback(statements.append)
    Listing(model).newest(wanted, TOP, 10)
    Listing(model).waiting(10)
    Listing(model).replays("t0")
    with model.reading() as db:
        db.set_trace_callback(None)
        asked = [statement for statement in statements if statement.lstrip().startswith("SELECT")]
        plans = [step for sql in asked for step in db.execute(f"EXPLAIN QUERY PLAN {sql}").fetchall()]
    assert asked
    assert not [step for step in plans if step[3].startswith("SCAN tasks")]


def test_numbers_that_no_column_can_hold_are_brought_into_range(model: ReadModel) -> None:
    huge = 10**30
    lies: Sequence[Record] = [
        outcome(0, "a", attempts=huge, offset=-huge, partition=huge, started_at_ms=huge, finished_at_ms=-huge),
        outcome(1, "b", queued_at_ms=huge),
    ]
    model.apply(lies, SOURCES)
    assert {row.task_id for row in Listing(model).newest(Filter(), TOP, 10)} == {"a", "b"}


def test_an_envelope_without_a_time_takes_that_of_its_record(model: ReadModel) -> None:
    model.apply([envelope(0, queued_at_ms=0)], SOURCES)
    assert Listing(model).newest(Filter(), TOP, 1)[0].queued_at_ms == 77


def test_trimming_takes_what_ended_long_ago_and_never_what_waits(model: ReadModel) -> None:
    ended = [outcome(at, finished_at_ms=2_000 + at) for at in range(10)]
    model.apply([envelope(at) for at in range(12)] + ended, SOURCES)
    assert model.trim(before_ms=2_005, most_rows=100) == 5
    assert model.trim(before_ms=2_005, most_rows=100) == 0
    assert {row[0] for row in rows_of(model)} == {f"t{at}" for at in range(5, 12)}
    assert_exact(model)


def test_trimming_keeps_the_number_of_rows_and_goes_by_age(model: ReadModel) -> None:
    model.apply([envelope(at) for at in range(30)] + [outcome(at) for at in range(28)], SOURCES)
    while model.trim(before_ms=0, most_rows=10, most_at_once=4):
        pass
    assert {row[0] for row in rows_of(model)} == {f"t{at}" for at in range(20, 30)}
    assert_exact(model)
