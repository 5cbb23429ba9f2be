"""A storm over three workers: faults at random from a seed, time turned by hand, and the books open all the while.

One invariant: the same seed is the same storm, move by move.
"""

import random
from collections import Counter
from collections.abc import Callable

import msgspec
from books import Books
from ports import Faults
from simulated import Actor
from stage import Stage

from yadtq.attempt import Attempt, Ending, Outcome
from yadtq.broker import Message
from yadtq.codec import encode
from yadtq.delayed import delayed
from yadtq.envelope import Envelope
from yadtq.inbox import Drain
from yadtq.settings import Order
from yadtq.states import State

PARTITIONS = 8
SESSION_MS = 10_000
MOVE_MS = 60  # a turn of everybody takes up to so long
MOST_TURNS = 20_000

# How a task of each kind ends. How often each is published, of 100.
KINDS = {
    "ok": 70,
    "eta": 2,
    "flaky": 8,
    "later": 6,
    "snooze": 3,
    "bad": 3,
    "reject": 2,
    "no-json": 2,
    "poison": 1,
    "unknown": 2,
}
FAILING = {"bad", "reject", "no-json", "poison", "unknown"}
ASKED = ("accepts", "seals", "releases", "claims")
# What has to have happened in a storm; one without it has proved nothing about it.
NEEDED = {
    "taken_over",
    "released",
    "elsewhere",
    "settled",
    "retrying",
    "reborn",
    "unavailable",
    "dead_lettered",
    "fired",
}


class Weather(Faults):
    """Between the workers and their ports."""

    def __init__(self, storm: "Storm") -> None:
        self._storm = storm

    def at(self, point: str) -> bool:
        lost = self._storm.losing > 0 and point.startswith("after ") and point.endswith(ASKED)
        self._storm.losing -= lost
        return lost


class Storm:
    """The world and its weather."""

    def __init__(
        self, seed: int, tasks: int, order: Order = "unordered", rate: float = 0.04, *, wipes: int = 0
    ) -> None:
        self.dice = random.Random(seed)
        self.stage = Stage(PARTITIONS)
        self.books = Books(self.stage)
        self.order: Order = order
        self.happened: Counter[str] = Counter()
        self.turns = 0
        self._wipes = wipes
        self._wiped_turn = -1_000  # the first one comes soon
        self.losing = 0  # so many more replies of the ledger do not arrive
        self._rate = rate
        self._left = tasks
        self._number = 0
        self._plans: list[tuple[int, Callable[[], None]]] = []  # what happens at a time
        self._rolling: list[str] | None = None
        self._half = tasks // 2
        self.actors = [self._enter(name) for name in ("w1", "w2", "w3")]

    def _enter(self, name: str) -> Actor:
        actor = Actor(self.stage, name, self.books, order=self.order, faults=Weather(self))
        actor.engine._chance = self.dice.random
        return actor

    # -- the tasks -----------------------------------------------------------------------------------------------------

    def _publish(self) -> None:
        if self.stage.broker.down:
            return
        for _ in range(min(self._left, self.dice.randrange(0, 6))):
            self._left -= 1
            self._number += 1
            if self.dice.random() < 0.01:
                self.stage.publish_bytes(b"\xff no envelope", self.dice.randrange(PARTITIONS))
                continue
            (kind,) = self.dice.choices(list(KINDS), list(KINDS.values()))
            task_id = f"{kind}-{self._number}"
            envelope = Envelope(
                task_id=task_id, task_type="nosuch" if kind == "unknown" else "add", task_args=msgspec.Raw(b"[1]")
            )
            if kind == "eta":
                envelope = msgspec.structs.replace(envelope, not_before_ms=self.stage.clock.now_ms() + 4_000)
                self.stage.broker.append(delayed(envelope, None, {}, self.stage.topics))
                continue
            key = b"k%d" % self.dice.randrange(40) if self.order == "key" else None
            partition = None if key else self.dice.randrange(PARTITIONS)
            self.stage.broker.append(Message(self.stage.topics.tasks, encode(envelope), key, partition))

    def script(self, attempt: Attempt) -> Outcome:
        """How this run ends. What counts is what the ledger knows, so a run that was refused changes nothing."""
        kind, failures = attempt.task_id.partition("-")[0], self.books.failures[attempt.task_id]
        ending, after_s = Ending.RETURNED, None
        match kind:
            case "flaky" if failures < 2:
                ending = Ending.RAISED
            case "later" if failures < 1:
                ending, after_s = Ending.RAISED, 3.0
            case "snooze" if self.books.starts[attempt.task_id] < 3:
                ending, after_s = Ending.SNOOZED, 2.0
            case "bad":
                ending = Ending.RAISED
            case "reject":
                ending = Ending.REJECTED
            case "no-json":
                ending = Ending.BAD_RESULT
            case "poison":
                ending = Ending.DIED
        result = f'"{attempt.task_id}#{attempt.attempt}"'.encode() if ending is Ending.RETURNED else None
        log = None if result else f"{kind} ends {ending}"
        return Outcome(attempt.number, ending, 1, 2, result, log, after_s)

    # -- the weather ---------------------------------------------------------------------------------------------------

    def _plan(self, in_ms: int, what: Callable[[], None]) -> None:
        self._plans.append((self.stage.clock.now_ms() + in_ms, what))

    def _fault(self) -> None:
        faults: list[Callable[[], None]] = [
            self.kill_worker, self.kill_runner, self.kill_runner, self.stop_worker, self.stop_worker,
            self.lose_replies, self.ledger_down, self.kafka_down, self.expel, self.hold_reports,
        ]  # fmt: skip
        if self._wipes and self.turns > self._wiped_turn + 1_200:
            faults = [self.ledger_wiped]
        self.dice.choice(faults)()

    @property
    def _up(self) -> list[Actor]:
        return [actor for actor in self.actors if not actor.gone and not actor.stands_still]

    def _pick(self) -> Actor | None:
        return self.dice.choice(self._up) if self._up else None

    def kill_worker(self) -> None:
        actor = self._pick()
        if actor is None or len(self._up) < 2:
            return
        self.happened["worker killed"] += 1
        self.books.fault_over(actor.name)
        if self.dice.random() < 0.5:  # what was on its way to Kafka may have got there
            actor.producer.let_go()
        actor.die()
        self._plan(SESSION_MS, actor.session_over)
        at_once = self.dice.random() < 0.3
        self._plan(50 if at_once else self.dice.randrange(5_000, 30_000), lambda: self._replace(actor))

    def _replace(self, actor: Actor) -> None:
        if actor in self.actors:
            self._tally(actor)
            self.actors[self.actors.index(actor)] = self._enter(actor.name)

    def kill_runner(self) -> None:
        actor = self._pick()
        if actor is not None:
            self.happened["runner killed"] += 1
            actor.runner.kill_process(self.dice.choice(actor.runner.processes))

    def stop_worker(self) -> None:
        """Longer than its lease; its runner processes go on, or stand still as the whole host does."""
        actor = self._pick()
        if actor is not None:
            actor.suspended = self.dice.random() < 0.5
            self.happened["host suspended" if actor.suspended else "worker stopped"] += 1
            actor.still_until_ms = self.stage.clock.now_ms() + self.dice.randrange(8_000, 25_000)
            self._plan(SESSION_MS, actor.session_over)

    def lose_replies(self) -> None:
        self.happened["replies lost"] += 1
        self.losing = self.dice.randrange(1, 4)

    def ledger_down(self) -> None:
        self.happened["ledger down"] += 1
        self.stage.ledger.down = True
        self._plan(self.dice.choice((500, 3_000, 15_000)), lambda: setattr(self.stage.ledger, "down", False))

    def ledger_wiped(self) -> None:
        self.happened["ledger wiped"] += 1
        self._wiped_turn, self._wipes = self.turns, self._wipes - 1
        self.stage.ledger.wipe()
        self.books.ledger_lost()

    def kafka_down(self) -> None:
        self.happened["Kafka down"] += 1
        self.stage.broker.down = True
        self._plan(self.dice.choice((500, 3_000, 15_000)), lambda: setattr(self.stage.broker, "down", False))

    def expel(self) -> None:
        actor = self._pick()
        if actor is not None and not self.stage.broker.down and not actor.member._expelled:
            self.happened["member expelled"] += 1
            actor.member.expel()
            if not actor.timing._expelled:
                actor.timing.expel()

    def hold_reports(self) -> None:
        actor = self._pick()
        if actor is not None:
            self.happened["reports held"] += 1
            actor.producer.hold = True
            self._plan(self.dice.randrange(500, 6_000), actor.producer.let_go)

    # -- turns ---------------------------------------------------------------------------------------------------------

    def _roll(self) -> None:
        """A rolling restart, once half is done: each drains, leaves, and a new one takes its name."""
        if self._rolling is None:
            if len(self.books.ended) < self._half:
                return
            self._rolling = [actor.name for actor in self.actors]
        if not self._rolling:
            return
        actor = next(actor for actor in self.actors if actor.name == self._rolling[0])
        if actor.gone or actor.stands_still or self.stage.ledger.down or self.stage.broker.down:
            return
        if not actor.leaving:
            actor.leaving = True
            actor.engine.inbox.put(Drain())
        elif actor.engine.idle and not actor.runner.busy and actor.engine.inbox.empty():
            actor.leave()
            self.happened["worker restarted"] += 1
            self._replace(actor)
            del self._rolling[0]

    def _tally(self, actor: Actor) -> None:
        self.happened.update(actor.kinds())
        actor.events.clear()

    def turn(self, *, calm: bool = False) -> None:
        """Everybody makes a move, in any order; the books are looked at after each."""
        self.turns += 1
        self.stage.clock.turn(self.dice.randrange(MOVE_MS))
        now = self.stage.clock.now_ms()
        due_now = [what for at, what in self._plans if at <= now]
        self._plans = [(at, what) for at, what in self._plans if at > now]
        for what in due_now:
            what()
            self.books.look()
        for actor in self.actors:  # before anybody can take over what runs in it
            actor.watch_lease()
        self._publish()
        if not calm and self.dice.random() < self._rate:
            self._fault()
            self.books.look()
        for actor in self.dice.sample(self.actors, len(self.actors)):
            self._move(actor)
        self._roll()
        if self.books.violations:
            raise AssertionError(f"turn {self.turns}: {self.books.violations}")

    def _move(self, actor: Actor) -> None:
        if actor.gone:
            return
        moves: list[Callable[[], None]] = []
        if not (actor.stands_still and actor.suspended):
            moves.append(lambda: actor.runner.move(self.dice, self.script))
        if not actor.stands_still:
            moves += [actor.poll, actor.think, actor.beat, actor.rebuild, actor.wait_for_times]
        self.dice.shuffle(moves)
        for move in moves:
            move()
            actor.watch_lease()
            self.books.look()
        if actor.superseded:
            actor.die()
            self._plan(SESSION_MS, actor.session_over)
        if len(actor.events) > 500:
            self._tally(actor)

    def run(self) -> None:
        """Storm until everything is published, then heal, and let everybody finish."""
        while self._left or self._rolling != [] or self.missing:
            assert self.turns < MOST_TURNS, f"it does not go on: {self}"
            self.turn()
            if not self._left and self._behind < 20:  # something that is needed did not happen yet
                self._left = 50
                self.dice.choice((self.stop_worker, self.expel, self.kill_worker))()
        while not (self.books.finished and self._over and not self.books.delayed):
            assert self.turns < MOST_TURNS, f"stuck: {self}"
            self.turn(calm=True)

    @property
    def _over(self) -> bool:
        return not self._plans and not any(actor.runner.busy or not actor.engine.idle for actor in self.actors)

    @property
    def _behind(self) -> int:
        return len(self.books.published) - len(self.books.ended)

    @property
    def missing(self) -> set[str]:
        """What has not happened yet."""
        for actor in self.actors:
            self._tally(actor)
        needed = NEEDED | ({"ledger wiped", "rebuilt"} if self._wiped_turn > 0 or self._wipes else set())
        return {kind for kind in needed if not self.happened[kind]}

    def judge(self) -> None:
        """The end: the books balance, every task ended as it had to, and the storm was one."""
        self.books.close()
        for task_id, outcome in self.books.ended.items():
            expected = State.FAILED if task_id.partition("-")[0] in FAILING else State.SUCCESS
            assert outcome.state is expected, f"{task_id} ended {outcome.state}: {outcome.error_log}"
        assert not self.missing, f"void: {sorted(self.missing)} did not happen; {self}"

    def __str__(self) -> str:
        books = self.books
        facts = {
            "published": len(books.published), "acknowledged": len(books.ended), "attempts": sum(books.starts.values()),
            "lost": len(books.published - books.ended.keys()), "unexpected": len(books.ended.keys() - books.published),
            "duplicated": books.repeats.total(), "excused": books.excused.total(), "turns": self.turns,
        }  # fmt: skip
        return ", ".join(f"{name} {value}" for name, value in {**self.happened, **facts}.items())
