from collections.abc import Callable

from yadtq.broker import Report
from yadtq.broker.kafka.reports import MOST, Reports

DONE = Report(None, 0, 0)
Pairs = list[tuple[object, Report]]


class Lists:
    """Keeps what it is given, list by list."""

    def __init__(self) -> None:
        self.lists: list[Pairs] = []

    def take(self, pairs: Pairs) -> None:
        self.lists.append(pairs)


def test_everybody_gets_what_came_for_them_in_one_list() -> None:
    reports, ours, theirs = Reports(), Lists(), Lists()
    for at in range(3):
        reports.add(ours.take, at, DONE)  # a bound method is another object at each look, and equal
        reports.add(theirs.take, -at, DONE)
    reports.hand_over()
    assert ours.lists == [[(0, DONE), (1, DONE), (2, DONE)]]
    assert theirs.lists == [[(0, DONE), (-1, DONE), (-2, DONE)]]
    reports.hand_over()
    assert len(ours.lists) == 1


def test_a_list_does_not_wait_for_all_of_a_flood() -> None:
    reports, ours = Reports(), Lists()
    for at in range(2 * MOST + 1):
        reports.add(ours.take, at, DONE)
    assert list(map(len, ours.lists)) == [MOST, MOST]
    reports.hand_over()
    assert [tag for pairs in ours.lists for tag, _ in pairs] == list(range(2 * MOST + 1))


def test_a_callback_that_fails_costs_the_others_nothing() -> None:
    reports, ours = Reports(), Lists()

    def fails(_: Pairs) -> None:
        raise ZeroDivisionError

    def hand_over() -> bool:
        try:
            reports.hand_over()
        except ZeroDivisionError:
            return True
        return False

    waits: list[Callable[[Pairs], None]] = [ours.take, fails]
    for on_reports in waits:
        reports.add(on_reports, 0, DONE)
    assert hand_over()
    assert not hand_over()
    assert len(ours.lists) == 1
