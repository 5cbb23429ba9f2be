"""What every ledger does with runs: from the first producer on a topic to the end that all of them gave."""

import pytest
from ledger_bench import Bench

from yadtq.ledger import RunRecord
from yadtq.ledger.protocol import PRODUCER_LEASE_MS


def test_a_topic_without_a_producer_has_no_run(bench: Bench) -> None:
    assert bench.ledger.runs() == {}


def test_the_first_producer_opens_the_first_run(bench: Bench) -> None:
    assert bench.ledger.run_beat("q", "p1") == RunRecord(1, ended=False, ending=False)
    assert bench.ledger.run_beat("q", "p1") == RunRecord(1, ended=False, ending=False)
    assert bench.ledger.runs() == {"q": RunRecord(1, ended=False, ending=False)}


def test_runs_of_two_topics_are_apart(bench: Bench) -> None:
    bench.ledger.run_beat("q", "p1", ended=False)
    bench.ledger.run_beat("r", "p1")
    bench.ledger.run_beat("r", "p1", ended=True)
    assert bench.ledger.runs() == {
        "q": RunRecord(1, ended=False, ending=False),
        "r": RunRecord(1, ended=False, ending=True),
    }


def test_a_run_ends_when_both_producers_have_ended(bench: Bench) -> None:
    bench.ledger.run_beat("q", "p1")
    bench.ledger.run_beat("q", "p2")
    assert not bench.ledger.run_beat("q", "p1", ended=True).ending
    assert bench.ledger.run_beat("q", "p2", ended=True) == RunRecord(1, ended=False, ending=True)


def test_a_killed_producer_does_not_hold_up_the_end(bench: Bench) -> None:
    bench.ledger.run_beat("q", "killed")
    assert not bench.ledger.run_beat("q", "p1", ended=True).ending
    bench.age_producers("q", PRODUCER_LEASE_MS - 5_000)
    assert not bench.ledger.runs()["q"].ending
    bench.age_producers("q", 5_001)
    assert bench.ledger.runs()["q"].ending


def test_a_killed_producer_alone_ends_nothing(bench: Bench) -> None:
    bench.ledger.run_beat("q", "killed")
    bench.age_producers("q", PRODUCER_LEASE_MS + 1)
    assert bench.ledger.runs() == {"q": RunRecord(1, ended=False, ending=False)}


def test_a_producer_that_left_does_not_hold_up_the_end(bench: Bench) -> None:
    bench.ledger.run_beat("q", "left")
    bench.ledger.run_beat("q", "p1", ended=True)
    assert bench.ledger.run_beat("q", "left", left=True).ending


def test_a_producer_that_left_alone_ends_nothing(bench: Bench) -> None:
    bench.ledger.run_beat("q", "left")
    assert bench.ledger.run_beat("q", "left", left=True) == RunRecord(1, ended=False, ending=False)
    assert bench.ledger.run_beat("q", "p1").number == 1


def test_an_end_counts_however_long_ago_it_was_given(bench: Bench) -> None:
    bench.ledger.run_beat("q", "p1", ended=True)
    bench.ledger.run_beat("q", "p1")
    bench.ledger.run_beat("q", "p1", ended=True)
    bench.age_producers("q", 10 * PRODUCER_LEASE_MS)
    bench.ledger.run_beat("q", "p2")
    assert not bench.ledger.runs()["q"].ending
    assert bench.ledger.run_beat("q", "p2", ended=True).ending


def test_a_closed_run_has_ended(bench: Bench) -> None:
    bench.ledger.run_beat("q", "p1")
    bench.ledger.run_beat("q", "p1", ended=True)
    bench.ledger.run_close("q", 1)
    bench.ledger.run_close("q", 1)
    assert bench.ledger.runs()["q"] == RunRecord(1, ended=True, ending=True)


def test_a_later_producer_opens_a_new_run(bench: Bench) -> None:
    bench.ledger.run_beat("q", "p1")
    bench.ledger.run_close("q", 1)
    assert bench.ledger.run_beat("q", "p2") == RunRecord(2, ended=False, ending=False)


@pytest.mark.parametrize("word", ["ended", "left"])
def test_a_late_word_to_a_closed_run_opens_no_new_one(bench: Bench, word: str) -> None:
    bench.ledger.run_beat("q", "p1")
    bench.ledger.run_close("q", 1)
    record = bench.ledger.run_beat("q", "p1", ended=word == "ended", left=word == "left")
    assert (record.number, record.ended) == (1, True)


def test_only_the_present_run_can_be_closed(bench: Bench) -> None:
    bench.ledger.run_beat("q", "p1")
    bench.ledger.run_close("q", 1)
    bench.ledger.run_beat("q", "p2")
    bench.ledger.run_close("q", 1)
    bench.ledger.run_close("q", 3)
    bench.ledger.run_close("unknown", 1)
    assert bench.ledger.runs()["q"] == RunRecord(2, ended=False, ending=False)


@pytest.mark.parametrize("name", ['"quoted" \\ {}', "snow ☃", "1", "a\nb"])
def test_any_topic_and_producer_can_run(bench: Bench, name: str) -> None:
    bench.ledger.run_beat(name, name)
    assert bench.ledger.run_beat(name, name, ended=True).ending
    assert bench.ledger.runs()[name].number == 1


def test_a_run_that_a_wipe_took_away_is_opened_again_by_its_producers(bench: Bench) -> None:
    bench.ledger.run_beat("q", "p1", ended=True, known=7)
    assert bench.ledger.runs() == {"q": RunRecord(7, ended=False, ending=True)}
    bench.ledger.run_close("q", 7)
    assert bench.ledger.run_beat("q", "p1", ended=True, known=7).ended
    assert bench.ledger.run_beat("q", "p2").number == 8
