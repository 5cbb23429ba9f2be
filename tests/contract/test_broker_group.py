"""What every broker does with the members of a group: shares, positions, commits, hand-over."""

import time
from collections.abc import Mapping, Sequence
from functools import partial

import pytest
from broker_bench import BrokerBench, Member

from waiting import eventually
from yadtq.broker import TopicPartition
from yadtq.offsets import Position

NOTE = "b1:" + "x" * 2_600


@pytest.fixture
def broker(group_broker: BrokerBench) -> BrokerBench:
    return group_broker


def has_read(member: Member, partition: int, count: int) -> bool:
    """Poll once; say whether a member has seen so many records of a partition."""
    return member.poll() is not None and len(member.values(partition)) == count


def both_own(first: Member, second: Member, count: int) -> None:
    """Poll two members until each owns so many partitions."""

    def shares() -> tuple[int, int]:
        first.poll()
        second.poll()
        return (len(first.owned), len(second.owned))

    eventually(lambda: shares() == (count, count), 30)


def test_a_member_alone_gets_everything_in_order(broker: BrokerBench) -> None:
    broker.create(2)
    for partition in (0, 1):
        broker.send(*[b"%d" % number for number in range(50)], partition=partition)
    member = broker.join()
    member.read(100)
    assert member.values(0) == member.values(1) == [b"%d" % number for number in range(50)]
    nothing = Position(0, "", committed=False)
    assert member.owned == {broker.at(0): nothing, broker.at(1): nothing}


def test_a_poll_returns_at_most_what_it_is_asked_for(broker: BrokerBench) -> None:
    broker.create()
    broker.send(*[b"%d" % number for number in range(30)], partition=0)
    member = broker.join()
    eventually(lambda: member.poll(7) is not None and len(member.records) >= 7, 30)
    while len(member.records) < 29:
        assert len(member.poll(7)) <= 7
    while len(member.records) < 30:
        assert len(member.poll(1)) <= 1
    assert [record.offset for record in member.records] == list(range(30))


def test_a_poll_comes_back_with_the_first_record(broker: BrokerBench) -> None:
    broker.create()
    member = broker.join().own(1)
    broker.send(b"x", partition=0)
    assert [record.value for record in member.consumer.poll(30, 500)] == [b"x"]


def test_members_get_the_partitions_that_a_topic_grows_by_and_miss_nothing_in_them(broker: BrokerBench) -> None:
    broker.create(1)
    member = broker.join().own(1)
    broker.broker.grow_topic(broker.topic, 3)
    for partition in range(3):
        broker.send(b"%d" % partition, partition=partition)  # before the member knows
    member.own(3).read(3)
    assert member.owned[broker.at(2)] == Position(0, "", committed=False)


def test_two_members_share_the_partitions(broker: BrokerBench) -> None:
    broker.create(4)
    first = broker.join().own(4)
    second = broker.join()
    both_own(first, second, 2)
    assert first.owned.keys() | second.owned.keys() == {broker.at(partition) for partition in range(4)}


def test_a_partition_is_given_up_before_another_member_gets_it(broker: BrokerBench) -> None:
    broker.create(4)
    first = broker.join().own(4)
    second = broker.join()
    both_own(first, second, 2)
    for where in second.owned:
        assert broker.told.index((first, "revoked", where)) < broker.told.index((second, "assigned", where))
    stayed = [where for member, what, where in broker.told if member is first and what == "assigned"]
    assert len(stayed) == 4  # what was not moved was not interrupted


def test_a_joiner_gets_nothing_that_another_has_not_given_up(broker: BrokerBench) -> None:
    broker.create(2)
    first = broker.join().own(2)
    second = broker.join()
    for _ in range(25):  # the first one is not asked meanwhile, so it cannot give up anything
        second.poll()
        assert not second.owned
    both_own(first, second, 1)


def test_two_groups_read_everything_each(broker: BrokerBench) -> None:
    broker.create()
    broker.send(b"a", b"b", partition=0)
    for group in ("g", "h"):
        member = broker.join(group)
        member.read(2)
        assert member.values() == [b"a", b"b"]


def test_a_closed_member_hands_over_at_once(broker: BrokerBench) -> None:
    broker.create(2)
    broker.send(b"a", b"b", partition=0)
    first = broker.join().own(2)
    second = broker.join()
    both_own(first, second, 1)
    began = time.monotonic()
    first.close()
    assert time.monotonic() - began < 5
    assert first.owned == {}
    second.own(2)
    for where in (where for member, what, where in broker.told if member is first and what == "revoked"):
        assert (second, "assigned", where) in broker.told


@pytest.mark.parametrize("wait", [True, False])
def test_a_commit_is_answered_with_the_position_that_was_committed(broker: BrokerBench, wait: bool) -> None:
    broker.create(2)
    member = broker.join().own(2)
    position = Position(3, NOTE)
    member.consumer.commit({broker.at(1): position}, wait=wait)
    if not wait:
        eventually(lambda: member.poll() is not None and member.answers, 30)
    assert member.answers == [({broker.at(1): position}, None)]
    assert broker.committed() == {broker.at(1): position}


def test_a_commit_for_many_partitions_is_answered_for_each(broker: BrokerBench) -> None:
    broker.create(3)
    member = broker.join().own(3)
    positions = {broker.at(partition): Position(partition + 1, f"note {partition}") for partition in range(3)}
    member.consumer.commit(positions, wait=True)
    answered = {where: at for answer, error in member.answers for where, at in answer.items() if error is None}
    assert answered == broker.committed() == positions


def test_the_same_offset_can_be_committed_again_with_other_metadata(broker: BrokerBench) -> None:
    broker.create()
    member = broker.join().own(1)
    for note in ("one", "two", ""):
        member.consumer.commit({broker.at(0): Position(0, note)}, wait=True)
        assert broker.committed() == {broker.at(0): Position(0, note)}


def test_the_next_owner_starts_at_the_committed_position_and_gets_its_metadata(broker: BrokerBench) -> None:
    broker.create()
    broker.send(b"a", b"b", b"c", partition=0)
    first = broker.join()
    first.read(3)
    first.consumer.commit({broker.at(0): Position(1, NOTE)}, wait=True)
    first.close()
    second = broker.join()
    second.read(2)
    assert second.owned == {broker.at(0): Position(1, NOTE)}
    assert second.values() == [b"b", b"c"]


def test_offset_0_that_was_committed_is_not_the_same_as_nothing(broker: BrokerBench) -> None:
    broker.create(2)
    first = broker.join().own(2)
    first.consumer.commit({broker.at(1): Position(0, "")}, wait=True)
    first.close()
    second = broker.join().own(2)
    assert {where.partition: at.committed for where, at in second.owned.items()} == {0: False, 1: True}


def test_a_start_that_is_given_comes_before_what_was_committed(broker: BrokerBench) -> None:
    broker.create(3)
    for partition in range(3):
        broker.send(*[b"%d" % number for number in range(6)], partition=partition)
    first = broker.join()
    first.read(18)
    first.consumer.commit({broker.at(partition): Position(5, NOTE) for partition in range(2)}, wait=True)
    first.close()
    asked: list[TopicPartition] = []

    def start(partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        asked.extend(partitions)
        return {broker.at(0): 2, broker.at(9): 0}  # of those that it leaves out the committed ones hold

    second = broker.join(start=start)
    second.read(4 + 1 + 6)
    assert sorted(asked) == [broker.at(0), broker.at(1), broker.at(2)]
    assert second.owned == {
        broker.at(0): Position(2, "", committed=False),
        broker.at(1): Position(5, NOTE),
        broker.at(2): Position(0, "", committed=False),
    }
    assert second.values(0) == [b"2", b"3", b"4", b"5"]
    assert second.values(1) == [b"5"]


def test_where_no_start_can_be_found_nothing_is_served(broker: BrokerBench) -> None:
    broker.create()
    broker.send(b"x", partition=0)

    def start(partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        raise ZeroDivisionError

    member = broker.join(start=start)

    def fails() -> bool:
        try:
            member.poll()
        except ZeroDivisionError:
            return True
        return False

    eventually(fails, 30)
    assert all(fails() for _ in range(20))
    member.close()
    assert (member.records, broker.told) == ([], [])


@pytest.mark.parametrize("to", [1, 5])
def test_a_member_goes_on_from_where_it_is_sent(broker: BrokerBench, to: int) -> None:
    broker.create(2)
    broker.send(*[b"%d" % number for number in range(6)], partition=0)
    member = broker.join()
    member.read(6)
    member.consumer.seek(broker.at(0), to)
    member.consumer.seek(broker.at(7), 0)  # not assigned
    broker.send(b"6", partition=0)
    member.read(6 + 7 - to)
    assert member.values(0)[6:] == [b"%d" % number for number in range(to, 7)]


def test_a_member_can_be_sent_elsewhere_while_it_is_told_of_the_partition(broker: BrokerBench) -> None:
    broker.create()
    broker.send(*[b"%d" % number for number in range(6)], partition=0)
    member = broker.join()
    hear = member.assigned

    def assigned(partitions: Mapping[TopicPartition, Position]) -> None:
        hear(partitions)
        member.consumer.seek(broker.at(0), 4)

    member.assigned = assigned  # type: ignore[method-assign]
    member.read(2)
    assert member.values(0) == [b"4", b"5"]


def test_a_partition_that_rests_goes_on_resting_where_it_is_sent(broker: BrokerBench) -> None:
    broker.create(2)
    broker.send(*[b"%d" % number for number in range(4)], partition=0)
    member = broker.join()
    member.read(4)
    member.consumer.pause([broker.at(0)])
    member.consumer.seek(broker.at(0), 2)
    for number in range(5):
        broker.send(b"%d" % number, partition=1)
        eventually(partial(has_read, member, 1, number + 1), 30)
    assert len(member.values(0)) == 4
    member.consumer.resume([broker.at(0)])
    member.read(4 + 5 + 2)
    assert member.values(0)[4:] == [b"2", b"3"]


def test_what_was_not_committed_is_read_again(broker: BrokerBench) -> None:
    broker.create()
    broker.send(b"a", b"b", partition=0)
    first = broker.join()
    first.read(2)
    first.close()
    second = broker.join()
    second.read(2)
    assert second.values() == [b"a", b"b"]


@pytest.mark.parametrize("wait", [True, False])
def test_a_commit_for_another_members_partition_is_refused_here(broker: BrokerBench, wait: bool) -> None:
    broker.create(2)
    first = broker.join().own(2)
    second = broker.join()
    both_own(first, second, 1)
    (theirs,) = second.owned
    first.consumer.commit({theirs: Position(5, "stolen")}, wait=wait)
    ((positions, error),) = first.answers
    assert (list(positions), bool(error)) == ([theirs], True)
    assert broker.committed() == {}


@pytest.mark.parametrize("wait", [True, False])
def test_of_a_mixed_commit_only_the_members_own_part_reaches_the_broker(broker: BrokerBench, wait: bool) -> None:
    broker.create(2)
    first = broker.join().own(2)
    second = broker.join()
    both_own(first, second, 1)
    (mine,), (theirs,) = first.owned, second.owned
    first.consumer.commit({theirs: Position(5, "stolen"), mine: Position(3, "mine")}, wait=wait)
    eventually(lambda: first.poll() is not None and len(first.answers) == 2, 30)
    assert {where: bool(error) for positions, error in first.answers for where in positions} == {
        theirs: True,
        mine: False,
    }
    assert broker.committed() == {mine: Position(3, "mine")}


def test_a_commit_is_still_taken_while_a_partition_is_given_up(broker: BrokerBench) -> None:
    broker.create()
    member = broker.join()
    hear = member.revoked

    def revoked(partitions: Sequence[TopicPartition]) -> None:
        member.consumer.commit({broker.at(0): Position(7, "last words")}, wait=True)
        hear(partitions)

    member.revoked = revoked  # type: ignore[method-assign]
    member.own(1)
    member.close()
    assert [error for _, error in member.answers] == [None]
    assert broker.committed() == {broker.at(0): Position(7, "last words")}


def test_a_paused_partition_rests_and_goes_on_where_it_was(broker: BrokerBench) -> None:
    broker.create(2)
    member = broker.join().own(2)
    member.consumer.pause([broker.at(0)])
    broker.send(b"a", b"b", partition=0)
    for number in range(5):  # the other one goes on meanwhile
        broker.send(b"%d" % number, partition=1)
        eventually(partial(has_read, member, 1, number + 1), 30)
    assert member.values(0) == []
    member.consumer.resume([broker.at(0)])
    eventually(lambda: member.poll() is not None and len(member.values(0)) == 2, 30)
    assert member.values(0) == [b"a", b"b"]
    assert member.values(1) == [b"%d" % number for number in range(5)]


def test_a_partition_that_comes_back_does_not_rest(broker: BrokerBench) -> None:
    broker.create(2)
    first = broker.join().own(2)
    first.consumer.pause([broker.at(0), broker.at(1)])
    second = broker.join()
    both_own(first, second, 1)
    (moved,) = second.owned
    second.close()
    first.own(2)
    broker.send(b"x", partition=moved.partition)
    eventually(lambda: first.poll() is not None and first.values(moved.partition) == [b"x"], 30)


def test_resting_what_is_not_owned_does_no_harm(broker: BrokerBench) -> None:
    broker.create(1)
    member = broker.join().own(1)
    member.consumer.pause([broker.at(9)])
    member.consumer.resume([broker.at(9)])
    broker.send(b"x", partition=0)
    member.read(1)
