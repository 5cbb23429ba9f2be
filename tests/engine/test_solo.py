"""What runs alone is claimed only as it can start, and holds up nobody; what has ended a runner runs alone."""

from stage import Player, Stage

from yadtq.attempt import Ending, Place
from yadtq.states import State


def given(worker: Player, *, solo: bool) -> list[str]:
    return sorted(attempt.task_id for attempt in worker.runner.in_hand if (attempt.place != "shared") is solo)


def crowd(stage: Stage) -> None:
    stage.publish(*(f"s{n}" for n in range(200)), task_type="alone!")
    stage.publish(*(f"a{n}" for n in range(20)))


def test_no_more_are_claimed_than_can_start_and_the_others_pass_them() -> None:
    stage = Stage(tasks=("add", "alone!"))
    crowd(stage)
    worker = stage.player(slots=4, order="unordered", solo_slots=2)
    worker.turn(6)
    assert given(worker, solo=True) == ["s0", "s1"]
    assert given(worker, solo=False) == ["a0", "a1", "a2", "a3"]
    assert stage.ledger.records(["s2"])[0] is None, "claimed too early"
    for _ in range(20):
        worker.runner.begin()
        for number, attempt in list(worker.runner.running.items()):
            if attempt.place == "shared":
                worker.runner.end_one(number)
        worker.turn(4)
    assert all(stage.record(f"a{n}").status is State.SUCCESS for n in range(20))
    assert given(worker, solo=True) == ["s0", "s1"]
    worker.work(220)
    assert all(stage.record(f"s{n}").status is State.SUCCESS for n in range(200))
    assert worker.runner.history.count(("s7", 1)) == 1


def test_in_the_order_of_a_partition_they_keep_their_place() -> None:
    stage = Stage(tasks=("add", "alone!"))
    stage.publish("a0")
    stage.publish("s0", task_type="alone!")
    stage.publish("a1")
    worker = stage.player(order="partition", solo_slots=2)
    worker.work()
    assert [task_id for task_id, _ in worker.runner.history] == ["a0", "s0", "a1"]


def test_a_task_that_has_ended_its_runner_runs_alone_from_then_on_on_every_worker() -> None:
    stage = Stage()
    stage.publish("poison", "good")
    first = stage.player(order="unordered", solo_slots=1)
    first.turn(3)
    assert given(first, solo=True) == []
    first.runner.begin()
    for number, attempt in list(first.runner.running.items()):
        first.runner.end_one(number, Ending.DIED if attempt.task_id == "poison" else Ending.RETURNED)
    first.turn(3)
    assert given(first, solo=True) == ["poison"]
    first.runner.begin()
    first.runner.end(Ending.RAISED)
    first.turn(3)
    first.crash()
    second = stage.player("w2", order="unordered", solo_slots=1)
    stage.lease_over(second)
    second.turn(3)
    assert given(second, solo=True) == ["poison"]
    second.work()
    assert stage.record("poison").status is State.SUCCESS


def places(worker: Player) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"shared": [], "solo": [], "suspect": []}
    for attempt in worker.runner.in_hand:
        found[attempt.place].append(attempt.task_id)
    return found


def die(worker: Player, place: Place = "shared") -> None:
    """All runners of a place die with what runs in them."""
    worker.runner.begin(place)
    for number, attempt in list(worker.runner.running.items()):
        if attempt.place == place:
            worker.runner.end_one(number, Ending.DIED)
    worker.turn(3)


def test_all_that_ran_in_one_runner_that_died_runs_again_at_once_and_more_than_that_wait_unclaimed() -> None:
    stage = Stage(tasks=("add", "alone!"))
    stage.publish("s0", "s1", task_type="alone!")
    stage.publish(*(f"a{n}" for n in range(10)))
    worker = stage.player(slots=4, order="unordered", solo_slots=1)
    worker.turn(4)
    assert places(worker) == {"shared": ["a0", "a1", "a2", "a3"], "solo": ["s0"], "suspect": []}
    die(worker)
    assert places(worker) == {
        "shared": ["a4", "a5", "a6", "a7"],
        "solo": ["s0"],
        "suspect": ["a0", "a1", "a2", "a3"],
    }
    die(worker)
    assert places(worker)["suspect"] == ["a0", "a1", "a2", "a3"]
    assert stage.record("a4").status is State.QUEUED, "claimed before it can start"
    worker.work()
    assert all(stage.record(f"a{n}").status is State.SUCCESS for n in range(10))
    assert [worker.runner.history.count((f"a{n}", 2)) for n in range(10)] == [1] * 8 + [0] * 2


def test_a_task_that_runs_alone_by_its_definition_stays_among_its_like_after_a_death() -> None:
    stage = Stage(tasks=("alone!",))
    stage.publish("s0", "s1", task_type="alone!")
    worker = stage.player(order="unordered", solo_slots=1)
    worker.turn(3)
    worker.runner.begin()
    worker.runner.end(Ending.DIED)
    worker.turn(5)
    assert [attempt.place for attempt in worker.runner.in_hand] == ["solo"], "one at a time"
    worker.work()
    for task_id, deaths in (("s0", 1), ("s1", 0)):
        assert (stage.record(task_id).status, stage.record(task_id).deaths) == (State.SUCCESS, deaths)


def test_what_waits_alone_is_given_back_with_its_partition() -> None:
    stage = Stage(tasks=("add", "alone!"))
    crowd(stage)
    worker = stage.player(slots=4, order="unordered", solo_slots=2)
    worker.turn(4)
    other = stage.player("w2", slots=4, order="unordered", solo_slots=2)
    worker.drain()
    worker.turn(2)
    assert worker.engine.idle
    assert stage.record("s0").status is State.QUEUED
    worker.crash()
    other.work(250)
    assert all(stage.record(f"s{n}").status is State.SUCCESS for n in range(200))


def crashing(stage: Stage) -> Player:
    """A worker on which a task has just died in a process of its own, with others of its type behind it."""
    stage.publish(*(f"c{n}" for n in range(10)), task_type="crash")
    stage.publish(*(f"a{n}" for n in range(4)))
    worker = stage.player(slots=2, order="unordered", solo_slots=1)
    worker.turn(4)
    die(worker)
    assert places(worker) == {"shared": ["c2", "c3"], "solo": [], "suspect": ["c0", "c1"]}
    assert worker.kinds().count("isolated") == 0, "which of the two it was nobody knows"
    die(worker, "suspect")
    assert worker.kinds().count("isolated") == 1
    return worker


def test_a_type_that_ends_a_process_of_its_own_leaves_the_shared_runners_at_once() -> None:
    stage = Stage(tasks=("add", "crash"))
    worker = crashing(stage)
    worker.turn(4)
    assert places(worker) == {"shared": ["a0", "a1"], "solo": [], "suspect": ["c0", "c1"]}
    assert stage.record("c2").attempts == 0, "recalled, its attempt given back"
    assert stage.ledger.records(["c4"])[0] is None, "claimed before it can start"
    for _ in range(15):
        die(worker, "suspect")
        worker.runner.begin("shared")
        for number, attempt in list(worker.runner.running.items()):
            assert attempt.task_type == "add"
            worker.runner.end_one(number)
        stage.clock.turn(200)
        worker.turn(3)
    assert {stage.record(f"c{n}").status for n in range(10)} == {State.FAILED}
    assert [worker.runner.history.count((f"c{n}", 1)) for n in range(10)] == [1] * 10
    assert {stage.record(f"a{n}").status for n in range(4)} == {State.SUCCESS}


def test_a_type_shares_again_when_one_of_it_has_come_to_its_end() -> None:
    stage = Stage(tasks=("add", "crash"))
    worker = crashing(stage)
    worker.runner.begin("suspect")
    worker.runner.end()
    worker.turn(4)
    starts: dict[str, Place] = {}
    worker.runner.on_start = lambda attempt: starts.update({attempt.task_id: attempt.place})
    stage.clock.turn(200)
    stage.publish("c10", task_type="crash")
    worker.work(50)
    assert {stage.record(f"c{n}").status for n in range(11)} == {State.SUCCESS}
    assert starts["c10"] == "shared"
