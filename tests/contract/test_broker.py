"""What every broker does with topics, messages and readers."""

import contextlib
import threading
import time
from collections.abc import Callable

import pytest
from broker_bench import BrokerBench

from waiting import eventually
from yadtq.broker import Message, Record, Report, ensure_topic
from yadtq.broker.kafka import KafkaBroker
from yadtq.errors import BrokerUnavailable


def read(bench: BrokerBench, starts: dict[int, int], count: int) -> list[Record]:
    """Read so many records with a reader of their own."""
    reader = bench.broker.reader()
    reader.watch({bench.at(partition): offset for partition, offset in starts.items()})
    records: list[Record] = []

    def all_read() -> bool:
        records.extend(reader.poll(0.05, 500))
        return len(records) >= count

    eventually(all_read, 30)
    reader.close()
    assert len(records) == count
    return records


def test_a_new_topic_can_be_seen_and_is_empty(broker: BrokerBench) -> None:
    broker.create(3)
    assert broker.broker.partitions()[broker.topic] == 3
    assert broker.broker.end_offsets(broker.topic) == {broker.at(partition): (0, 0) for partition in range(3)}


def test_a_topic_is_created_once(broker: BrokerBench) -> None:
    broker.create(2)
    assert not broker.broker.create_topic(broker.topic, 5, {})
    assert broker.broker.partitions()[broker.topic] == 2
    assert ensure_topic(broker.broker, broker.topic, 5, {}) == 2
    assert ensure_topic(broker.broker, f"{broker.topic}-other", 4, {}) == 4


def test_a_topic_grows_and_never_shrinks(broker: BrokerBench) -> None:
    broker.create(2)
    broker.send(b"x", partition=1)
    assert broker.broker.grow_topic(broker.topic, 4) == 4
    assert broker.broker.grow_topic(broker.topic, 4) == 4
    assert broker.broker.grow_topic(broker.topic, 3) == 4
    assert broker.broker.partitions()[broker.topic] == 4
    ends = {broker.at(partition): (0, int(partition == 1)) for partition in range(4)}
    assert broker.broker.end_offsets(broker.topic) == ends


def test_a_producer_that_sent_before_can_send_to_the_new_partitions_at_once(broker: BrokerBench) -> None:
    broker.create(2)
    assert [report.partition for report in broker.send(b"a", b"b", partition=1)] == [1, 1]
    broker.broker.grow_topic(broker.topic, 4)
    (late,) = broker.send(b"c", partition=3)
    assert (late.error, late.partition, late.offset) == (None, 3, 0)
    (report,) = broker.send(b"d", partition=4)
    assert report.refused


def test_a_topic_nobody_made_does_not_grow(broker: BrokerBench) -> None:
    with pytest.raises(BrokerUnavailable, match=broker.topic):
        broker.broker.grow_topic(broker.topic, 4)


def test_a_topic_nobody_made_has_no_offsets(broker: BrokerBench) -> None:
    assert broker.topic not in broker.broker.partitions()
    assert broker.broker.end_offsets(broker.topic) == {}
    assert broker.committed() == {}


def test_a_report_says_where_the_message_lies(broker: BrokerBench) -> None:
    broker.create(2)
    reports = broker.send(b"a", b"b", partition=1)
    assert [(report.error, report.partition, report.offset) for report in reports] == [(None, 1, 0), (None, 1, 1)]
    assert broker.broker.end_offsets(broker.topic) == {broker.at(0): (0, 0), broker.at(1): (0, 2)}


def test_a_partition_keeps_the_order_of_its_messages(broker: BrokerBench) -> None:
    broker.create(2)
    values = [b"%d" % number for number in range(200)]
    broker.send(*values, partition=1)
    records = read(broker, {0: 0, 1: 0}, 200)
    assert [record.value for record in records] == values
    assert [record.offset for record in records] == list(range(200))
    assert {record.where for record in records} == {broker.at(1)}


def test_the_same_key_goes_to_the_same_partition_and_keys_spread(broker: BrokerBench) -> None:
    broker.create(4)
    where = {}
    for number in range(20):
        key = b"key-%d" % number
        first, second = broker.send(b"a", b"b", key=key)
        assert first.partition == second.partition
        where[key] = first.partition
    assert set(where.values()) == {0, 1, 2, 3}


def test_messages_without_a_key_go_somewhere(broker: BrokerBench) -> None:
    broker.create(2)
    assert {report.partition for report in broker.send(*[b"x"] * 20)} <= {0, 1}
    assert sum(end for _, end in broker.broker.end_offsets(broker.topic).values()) == 20


@pytest.mark.parametrize("key", [None, b"", b"\x00key\xff"])
@pytest.mark.parametrize("value", [b"", b"\x00\xff" * 3])
def test_any_bytes_come_back_as_they_were(broker: BrokerBench, key: bytes | None, value: bytes) -> None:
    broker.create()
    headers = {"yadtq-reason": "grüße ☃".encode(), "empty": b"", "snow ☃": b"\x00\xff"}
    broker.send(value, key=key, headers=headers, partition=0)
    (record,) = read(broker, {0: 0}, 1)
    assert (record.value, record.key, dict(record.headers)) == (value, key, headers)
    assert abs(record.timestamp_ms - time.time() * 1000) < 60_000


def test_what_is_too_large_for_the_topic_is_refused(broker: BrokerBench) -> None:
    broker.create()
    (large, small) = broker.send(bytes(3_000_000), b"small", partition=0)
    assert large.error
    assert large.refused
    assert (small.error, small.refused) == (None, False)


def test_what_is_too_large_for_the_client_is_refused(broker: BrokerBench) -> None:
    broker.create()
    (report,) = broker.send(bytes(5_000_000), partition=0)
    assert report.error
    assert report.refused


def test_a_topic_may_take_larger_messages(broker: BrokerBench) -> None:
    broker.create(1, **{"max.message.bytes": "2097152"})
    (report,) = broker.send(bytes(1_500_000), partition=0)
    assert report.error is None


def test_a_message_to_an_unknown_topic_is_refused(broker: BrokerBench) -> None:
    (report,) = broker.send(b"x")
    assert report.error
    assert report.refused


def test_a_message_to_an_unknown_partition_is_refused(broker: BrokerBench) -> None:
    broker.create(1)
    (report,) = broker.send(b"x", partition=7)
    assert report.error
    assert report.refused


def test_a_closed_producer_has_sent_everything(broker: BrokerBench) -> None:
    broker.create()
    producer, reports = broker.broker.producer(), list[Report]()
    for _ in range(100):
        producer.produce(Message(broker.topic, b"x"), reports.append)
    assert producer.close(30) == 0
    assert [report.error for report in reports] == [None] * 100


def test_of_a_batch_every_report_comes_once_with_its_tag(broker: BrokerBench) -> None:
    broker.create(2)
    pairs: list[tuple[str, Report]] = []
    for batch in range(10):
        messages = [Message(broker.topic, b"%d" % at, partition=at % 2) for at in range(batch * 200, batch * 200 + 200)]
        tags = [(message.value or b"").decode() for message in messages]
        broker.producer.produce_batch(messages, tags, pairs.extend)
    eventually(lambda: len(pairs) >= 2_000, 30)
    assert sorted(int(tag) for tag, _ in pairs) == list(range(2_000))
    assert {report.error for _, report in pairs} == {None}
    records = read(broker, {0: 0, 1: 0}, 2_000)
    lies = {(record.partition, record.offset): record.value.decode() for record in records}
    assert {(report.partition, report.offset): tag for tag, report in pairs} == lies
    for partition in (0, 1):  # as they were given
        assert [int(record.value) for record in records if record.partition == partition] == list(
            range(partition, 2_000, 2)
        )


def test_what_is_refused_of_a_batch_is_told_and_the_rest_is_sent(broker: BrokerBench) -> None:
    broker.create()
    values = [b"a", bytes(5_000_000), b"b", bytes(3_000_000), b"c"]  # too large for the client, and for the topic
    reports: dict[int, Report] = {}
    messages = [Message(broker.topic, value, partition=0) for value in values]
    broker.producer.produce_batch(messages, range(5), reports.update)
    eventually(lambda: len(reports) == 5, 30)
    assert {tag: report.refused for tag, report in reports.items()} == {
        0: False,
        1: True,
        2: False,
        3: True,
        4: False,
    }
    assert [record.value for record in read(broker, {0: 0}, 3)] == [b"a", b"b", b"c"]


def test_a_batch_carries_keys_and_headers(broker: BrokerBench) -> None:
    broker.create()
    pairs: list[tuple[None, Report]] = []
    messages = [Message(broker.topic, b"x", b"key", 0, {"name": b"\x00"}), Message(broker.topic, b"y", partition=0)]
    broker.producer.produce_batch(messages, [None, None], pairs.extend)
    first, second = read(broker, {0: 0}, 2)
    assert (first.key, dict(first.headers)) == (b"key", {"name": b"\x00"})
    assert (second.key, dict(second.headers)) == (None, {})


def test_a_batch_needs_a_tag_for_each_message(broker: BrokerBench) -> None:
    broker.create()
    with pytest.raises(ValueError, match="zip"):
        broker.producer.produce_batch([Message(broker.topic, b"x")], [], lambda pairs: None)


def test_a_closed_producer_has_handed_over_the_reports_of_its_batches(broker: BrokerBench) -> None:
    broker.create()
    producer = broker.broker.producer()
    pairs: list[tuple[int, Report]] = []
    producer.produce_batch([Message(broker.topic, b"x")] * 3_000, range(3_000), pairs.extend)
    assert producer.close(30) == 0
    assert sorted(tag for tag, report in pairs if report.error is None) == list(range(3_000))


def test_a_callback_that_fails_keeps_no_report_from_others(
    broker: BrokerBench, caplog: pytest.LogCaptureFixture
) -> None:
    broker.create()

    def fails(_: object) -> None:
        raise ZeroDivisionError

    sends: list[Callable[[], None]] = [
        lambda: broker.producer.produce(Message(broker.topic, b"x"), fails),
        lambda: broker.producer.produce_batch([Message(broker.topic, b"x")], [1], fails),
    ]
    for send in sends:
        with contextlib.suppress(ZeroDivisionError):  # where the report comes at once, so does this
            send()
    if isinstance(broker.broker, KafkaBroker):
        eventually(lambda: len(caplog.records) == 2, 30)
    (report,) = broker.send(b"x")
    assert report.error is None


def test_a_sender_has_a_report_for_each_message_and_keeps_their_order(broker: BrokerBench) -> None:
    broker.create(2)
    sender = broker.broker.sender()
    messages = [Message(broker.topic, b"%d" % at, partition=at % 2) for at in range(2_000)]
    flight = sender.send(messages)
    first = sender.wait(flight, 30, enough=10)
    assert len(first) >= 10
    rest = sender.wait(flight, 30)
    assert sorted(first + rest) == list(range(2_000))
    assert flight.landed
    records = read(broker, {0: 0, 1: 0}, 2_000)
    lies = {(record.partition, record.offset): record.value for record in records}
    reports = [report for report in flight.reports if report]
    assert [lies[report.partition, report.offset] for report in reports] == [message.value for message in messages]
    assert [report.offset for report in reports] == [at // 2 for at in range(2_000)]
    assert sender.close(10) == 0


def test_what_a_sender_may_not_send_is_told_and_the_rest_is_sent(broker: BrokerBench) -> None:
    broker.create()
    sender = broker.broker.sender()
    sizes = [1, 5_000_000, 1, 3_000_000, 1]  # too large for the client, and for the topic
    flight = sender.send([Message(broker.topic, bytes(size), partition=0) for size in sizes])
    sender.wait(flight, 30)
    assert [report.refused if report else None for report in flight.reports] == [False, True, False, True, False]
    assert sender.wait(sender.send([]), 30) == []
    assert sender.close(10) == 0


def test_many_threads_wait_at_one_sender_each_for_its_own(broker: BrokerBench) -> None:
    broker.create(4)
    sender = broker.broker.sender()
    ends: list[list[Report | None]] = []

    def some(partition: int) -> None:
        for _ in range(25):
            flight = sender.send([Message(broker.topic, b"x", partition=partition % 4)] * 3)
            sender.wait(flight, 30)
            ends.append(flight.reports)

    threads = [threading.Thread(target=some, args=(partition,)) for partition in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(ends) == 200
    places = {(report.partition, report.offset) for reports in ends for report in reports if report}
    assert places == {(partition, offset) for partition in range(4) for offset in range(150)}
    assert sender.close(10) == 0


def test_a_reader_reads_everything_behind_the_given_offsets(broker: BrokerBench) -> None:
    broker.create(2)
    for partition in (0, 1):
        broker.send(*[b"%d" % number for number in range(10)], partition=partition)
    records = read(broker, {0: 4, 1: 0}, 16)
    assert [record.offset for record in records if record.partition == 0] == list(range(4, 10))
    assert [record.offset for record in records if record.partition == 1] == list(range(10))


def test_a_reader_takes_further_partitions_and_none_twice(broker: BrokerBench) -> None:
    broker.create(2)
    broker.send(b"a", b"b", partition=0)
    broker.send(b"c", partition=1)
    reader = broker.broker.reader()
    values: list[bytes] = []

    def read_on() -> list[bytes]:
        values.extend(record.value for record in reader.poll(0.05, 500))
        return sorted(values)

    assert reader.poll(0, 10) == []
    reader.watch({broker.at(0): 0})
    eventually(lambda: read_on() == [b"a", b"b"], 30)
    reader.watch({broker.at(0): 0, broker.at(1): 0})
    eventually(lambda: read_on() == [b"a", b"b", b"c"], 30)
    broker.send(b"d", partition=0)
    eventually(lambda: read_on() == [b"a", b"b", b"c", b"d"], 30)
    reader.close()


def test_a_reader_returns_no_more_than_it_is_asked_for(broker: BrokerBench) -> None:
    broker.create()
    broker.send(*[b"x"] * 20, partition=0)
    reader = broker.broker.reader()
    reader.watch({broker.at(0): 0})
    counts: list[int] = []

    def all_read() -> bool:
        counts.append(len(reader.poll(0.05, 3)))
        return sum(counts) == 20

    eventually(all_read, 30)
    reader.close()
    assert max(counts) == 3


def test_readers_are_no_members_of_a_group(broker: BrokerBench) -> None:
    broker.create()
    broker.send(b"x", partition=0)
    for _ in range(2):
        assert [record.value for record in read(broker, {0: 0}, 1)] == [b"x"]
