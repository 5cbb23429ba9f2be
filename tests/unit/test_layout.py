"""The names of everything that is kept."""

import pytest

from yadtq.errors import SettingsError
from yadtq.layout import Layout


def test_the_topics_of_a_queue_stand_beside_each_other_under_the_prefix() -> None:
    names = ("staging-mail", "staging-mail.outcomes", "staging-mail.dlq", "staging-mail.delayed")
    assert Layout("staging-").queue("mail").all == names


def test_no_two_kinds_of_keys_share_a_name() -> None:
    layout = Layout("p-")
    keys = [layout.task("x"), layout.heartbeats, layout.epoch("q"), layout.read("q"), layout.sealed, layout.runs]
    assert len(set(keys)) == 6
    assert all(key.startswith("p-") for key in keys)
    assert layout.heartbeats == "p-all_heartbeats"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a b", "a/b", "ä", "x" * 201, "q.outcomes", "q.dlq", "q.delayed", "a\n"]
)
def test_a_queue_that_kafka_would_not_take_or_that_looks_like_ours_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="queue's name"):
        Layout().queue(name)


@pytest.mark.parametrize("name", ["a", "A-1_b.c", "x" * 200, "outcomes", "q.outcomes.x"])
def test_other_names_are_taken(name: str) -> None:
    assert Layout().queue(name).tasks == name


def test_queues_are_found_by_the_topic_beside_them() -> None:
    topics = {"p-a", "p-a.outcomes", "p-a.dlq", "p-b", "c", "c.outcomes", "p-d.outcomes", "__consumer_offsets"}
    assert Layout("p-").queues(topics) == ["a"]
    assert Layout().queues(topics) == ["c", "p-a"]
