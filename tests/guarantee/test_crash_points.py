"""A worker dies at every step of settle, of a hand-off and of a firing, for every verdict; its heir finishes, and
nothing is lost, doubled or changed. Where an order is kept, and with more than one partition, too."""

import random
from collections.abc import Iterator
from functools import cache

import pytest
from mortal import PLAIN, VERDICTS, Ground, Play, fails_once, narrow, story

GROUNDS = [
    Ground("unordered", 2),
    Ground("unordered", 2, neighbour=True),
    Ground("key", 2),
    Ground("partition", 2),
]
SAMPLE = 2  # points of each verdict on each ground, in the quick run


@pytest.fixture(autouse=True)
def _narrow() -> Iterator[None]:
    with narrow():
        yield


@cache
def points(name: str, ground: Ground = PLAIN) -> list[str]:
    """What a worker passes to which nothing happens."""
    with narrow():
        return Play(VERDICTS[name], ground).live("dying").fuse.points


def dies_once(name: str, ground: Ground, point: str) -> None:
    play = Play(VERDICTS[name], ground)
    play.live("dying", point)
    ended = set(play.books.ended)
    heir = play.live("heir")
    play.check()
    ran = {task_id for task_id, _ in heir.runner.history}
    assert not ran & ended, "what had an outcome in Kafka ran again"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "point" in metafunc.fixturenames:
        metafunc.parametrize(("name", "point"), [(name, point) for name in VERDICTS for point in points(name)])


@pytest.mark.parametrize("ground", [PLAIN, *GROUNDS], ids=str)
@pytest.mark.parametrize("name", VERDICTS)
def test_a_worker_without_a_fault_passes_every_step(name: str, ground: Ground) -> None:
    play = Play(VERDICTS[name], ground)
    fuse = play.live("dying").fuse
    play.check()
    for when in ("before", "after"):
        missing = play.verdict.passed_on(ground) - fuse.kinds(when)
        assert not missing, f"no point {when} {missing}"


def test_a_crash_at_any_point_loses_nothing_and_changes_no_outcome(name: str, point: str) -> None:
    dies_once(name, PLAIN, point)


@pytest.mark.parametrize("ground", GROUNDS, ids=str)
@pytest.mark.parametrize("name", VERDICTS)
def test_a_crash_on_other_grounds_loses_nothing_and_keeps_the_order(name: str, ground: Ground, seed: int) -> None:
    """Some of the points of each; `make soak` dies at all of them."""
    known = points(name, ground)
    for point in random.Random(seed).sample(known, min(SAMPLE, len(known))):
        dies_once(name, ground, point)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("ground", GROUNDS, ids=str)
@pytest.mark.parametrize("name", VERDICTS)
def test_a_crash_at_any_point_on_other_grounds_loses_nothing_and_keeps_the_order(name: str, ground: Ground) -> None:
    for point in points(name, ground):
        dies_once(name, ground, point)


@pytest.mark.parametrize("ground", [PLAIN, *GROUNDS], ids=str)
@pytest.mark.parametrize("name", VERDICTS)
def test_a_call_that_fails_is_made_again_and_changes_nothing(name: str, ground: Ground, seed: int) -> None:
    """At one point before and one after a call; `make soak` fails at all of them."""
    dice, known = random.Random(seed), points(name, ground)
    for when in ("before", "after"):
        point = dice.choice([point for point in known if point.startswith(when)])
        fails_once(lambda: Play(VERDICTS[name], ground), point)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("ground", [PLAIN, *GROUNDS], ids=str)
@pytest.mark.parametrize("name", VERDICTS)
def test_any_call_that_fails_is_made_again_and_changes_nothing(name: str, ground: Ground) -> None:
    for point in points(name, ground):
        fails_once(lambda: Play(VERDICTS[name], ground), point)


def crash_again(name: str, ground: Ground, first: str, dice: random.Random | None) -> None:
    """Its heir dies too: at every point of its recovery, or at one of them."""
    recovery = story(lambda: Play(VERDICTS[name], ground), [first]).fuse.points
    for second in recovery if dice is None else [dice.choice(recovery)]:
        story(lambda: Play(VERDICTS[name], ground), [first, second])


@pytest.mark.parametrize("name", VERDICTS)
def test_a_second_crash_in_the_recovery_loses_nothing(name: str, seed: int) -> None:
    """Some pairs of points of each; `make soak` dies at all of them."""
    dice = random.Random(seed)
    for ground in (PLAIN, dice.choice(GROUNDS)):
        crash_again(name, ground, dice.choice(points(name, ground)), dice)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", VERDICTS)
def test_a_second_crash_at_any_point_of_the_recovery_loses_nothing(name: str) -> None:
    for first in points(name):
        crash_again(name, PLAIN, first, None)
