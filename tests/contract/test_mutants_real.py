"""Mutants of what speaks to Kafka, of the scripts in Redis and of the runners: a test on the real thing turns red."""

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import runner_bench
import test_broker
import test_broker_group
import test_ledger
import test_ledger_epoch
import test_ledger_generations
import test_others_clients
import test_pool_death
import test_pool_lease
import test_runner
from broker_bench import BrokerBench
from confluent_kafka import KafkaException
from ledger_bench import HOUR_MS, RedisBench, redis_bench
from redis.client import PubSub

import yadtq.ledger.redis
from mutants import Mutant, Mutants, turns_red
from opening import open_ledger
from yadtq.attempt import Ending, Lease, Outcome
from yadtq.broker import TopicPartition
from yadtq.broker.kafka import KafkaBroker, properties
from yadtq.broker.kafka.consumer import KafkaConsumer
from yadtq.ledger import Batch, Beat, Elsewhere, Pulse
from yadtq.ledger.redis import RedisLedger
from yadtq.offsets import Position
from yadtq.runners import Runner, Sink
from yadtq.runners.line import Line
from yadtq.runners.process import Flight, RunnerProcess
from yadtq.runners.seats import Seats

KAFKA, SCRIPTS, RUNNERS = Mutants(), Mutants(), Mutants()


# -- Kafka -------------------------------------------------------------------------------------------------------------


@KAFKA.add(
    "a message is reported when every replica in sync has it", test_broker.test_a_report_says_where_the_message_lies
)
def acks_0(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(properties.PRODUCER, "acks", "0")
    patch.setitem(properties.PRODUCER, "enable.idempotence", False)


@KAFKA.add(
    "a commit says for each partition what is committed, bitmap and all",
    test_broker_group.test_the_same_offset_can_be_committed_again_with_other_metadata,
)
def bitmap_by_bare_commit(patch: pytest.MonkeyPatch) -> None:
    def commit(self: KafkaConsumer, positions: Mapping[TopicPartition, Position], *, wait: bool) -> None:
        mine = {where: at for where, at in positions.items() if self._store(where, at)}
        try:
            self._on_commit(None, self._consumer.commit(asynchronous=not wait) or [])  # type: ignore[call-overload]
        except KafkaException as error:
            self._listener.committed(mine, error.args[0].str())

    patch.setattr(KafkaConsumer, "commit", commit)


@KAFKA.add(
    "no member commits for a partition of another one",
    lambda broker: test_broker_group.test_a_commit_for_another_members_partition_is_refused_here(broker, wait=True),
)
def commit_without_the_guard(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(KafkaConsumer, "_store", lambda *_: True)


@KAFKA.add(
    "the end of one message commits no other",
    lambda broker: test_others_clients.test_kombu_the_end_of_one_message_commits_none_of_the_others_that_were_read(
        broker, wait=True
    ),
)
def all_that_was_read_is_committed(patch: pytest.MonkeyPatch) -> None:
    def commit(self: KafkaConsumer, positions: Mapping[TopicPartition, Position], *, wait: bool) -> None:
        self._on_commit(None, self._consumer.commit(asynchronous=not wait) or [])  # type: ignore[call-overload]

    patch.setattr(KafkaConsumer, "commit", commit)
    patch.setitem(properties.MEMBER, "enable.auto.offset.store", True)


@pytest.mark.real
@pytest.mark.parametrize("mutant", KAFKA, ids=str)
def test_a_mutant_of_the_kafka_adapter_does_not_survive(mutant: Mutant, kafka_address: str, topic: str) -> None:
    topics = iter((f"{topic}-sound", f"{topic}-changed"))

    @contextmanager
    def ground() -> Iterator[tuple[BrokerBench]]:
        config = {"bootstrap.servers": kafka_address, "topic.metadata.propagation.max.ms": "500"}
        bench = BrokerBench(KafkaBroker(config, kafka_address), next(topics))
        try:
            yield (bench,)
        finally:
            bench.close()

    turns_red(mutant, ground)


# -- the scripts -------------------------------------------------------------------------------------------------------


def change(patch: pytest.MonkeyPatch, script: str, old: str, new: Callable[[], str]) -> None:
    """Change one place of a script. new: Every client asks it for itself."""
    source = yadtq.ledger.redis._source
    if source(script).count(old) != 1:
        raise LookupError(f"{script} does not say once {old!r}")
    patch.setattr(yadtq.ledger.redis, "_source", lambda name: source(name).replace(old, new()))


def a_claim_is_judged_by_the_ledgers_clock(bench: RedisBench) -> None:
    """A worker on a host whose clock is two hours ahead takes nothing from one whose lease is an hour."""
    bench.run("w1")
    with pytest.MonkeyPatch.context() as patch:
        now = time.time
        patch.setattr(time, "time", lambda: now() + 2 * HOUR_MS / 1000)
        ahead = RedisLedger(bench.proxy.url, "the test's Valkey", bench.layout, 60)
    try:
        assert ahead.beat(Beat("w2", "w2-ahead", HOUR_MS, first=True)) is Pulse.ALIVE
        (answer,) = ahead.exchange("q", "w2", "w2-ahead", Batch(claims=[bench.wish()])).claims
        assert answer == Elsewhere("w1")
    finally:
        ahead.close()


@SCRIPTS.add("leases are measured by the ledger's clock alone (C3)", a_claim_is_judged_by_the_ledgers_clock)
def lease_by_the_clients_clock(patch: pytest.MonkeyPatch) -> None:
    change(patch, "exchange", "time[1] * 1000 + math.floor(time[2] / 1000)", lambda: str(int(time.time() * 1000)))


@SCRIPTS.add(
    "a verdict counts only under the present fence (S2)",
    test_ledger.test_what_the_old_attempt_says_after_a_takeover_is_refused_and_changes_nothing,
)
def accept_without_comparing(patch: pytest.MonkeyPatch) -> None:
    change(patch, "exchange", "if record[1] ~= 'PROCESSING' or record[2] ~= fence then", lambda: "if false then")


@SCRIPTS.add(
    "a seal counts only under the present fence (S2)",
    test_ledger.test_a_seal_needs_a_final_state_and_the_right_fence,
)
def seal_without_comparing(patch: pytest.MonkeyPatch) -> None:
    change(patch, "finish", "sealed[i] = record[2] == fence and ", lambda: "sealed[i] = ")


@SCRIPTS.add(
    "a claim that is given back gives its attempt back (C1)",
    test_ledger.test_a_released_claim_gives_its_attempt_back_and_keeps_its_fence,
)
def release_without_effect(patch: pytest.MonkeyPatch) -> None:
    change(patch, "finish", "if record[1] == 'PROCESSING' and record[2] == r[2] then", lambda: "if false then")


@SCRIPTS.add(
    "a claim whose answer was lost gets the same answer (C2)",
    test_ledger.test_the_same_token_gets_the_same_answer_after_the_answer_was_lost,
)
def token_forgotten(patch: pytest.MonkeyPatch) -> None:
    change(patch, "exchange", "claimed == asked", lambda: "not asked")


@SCRIPTS.add(
    "a retry that was accepted and perhaps never written is answered with its verdict (C4)",
    test_ledger_generations.test_before_the_seal_of_a_retry_its_old_record_is_to_send_it_again,
)
def retry_not_sent_again(patch: pytest.MonkeyPatch) -> None:
    change(patch, "exchange", "if resend and generation == present - 1 then", lambda: "if false then")


def a_fence_of_the_life_before_is_never_right_by_chance(bench: RedisBench) -> None:
    """Both are the first claim of their life, and this worker has seen nothing of the one before."""
    old = bench.run("w1")
    bench.wipe()
    bench.start("w2")
    open_ledger(bench.ledger, "q")
    bench.run("w2")
    assert bench.accept(old) is None


@SCRIPTS.add(
    "a new life of the ledger has a higher epoch than any before (R4)",
    a_fence_of_the_life_before_is_never_right_by_chance,
)
def fence_reset_after_a_wipe(patch: pytest.MonkeyPatch) -> None:
    change(patch, "recovery", "math.max(now, tonumber(ARGV[3]) + 1, last + 1)", lambda: "1")


def without_an_epoch_every_claim_has_to_wait(bench: RedisBench) -> None:
    bench.wipe()
    test_ledger_epoch.test_without_an_epoch_every_claim_has_to_wait(bench)


@SCRIPTS.add("a ledger without an epoch answers WAIT (R2)", without_an_epoch_every_claim_has_to_wait)
def open_without_an_epoch(patch: pytest.MonkeyPatch) -> None:
    change(patch, "exchange", "  if not epoch then return nil end", lambda: "  epoch = epoch or '1'")


@pytest.mark.real
@pytest.mark.parametrize("mutant", SCRIPTS, ids=str)
def test_a_mutant_of_the_scripts_does_not_survive(mutant: Mutant, redis_url: str, prefix: str) -> None:
    @contextmanager
    def ground() -> Iterator[tuple[RedisBench]]:
        with redis_bench(redis_url, prefix) as bench:
            open_ledger(bench.ledger, "q")
            bench.start("w1", "w2")
            yield (bench,)

    turns_red(mutant, ground)


# -- the channel -------------------------------------------------------------------------------------------------------

EARS = Mutants()


@EARS.add(
    "a channel on which nothing is said is asked whether it is alive",
    test_others_clients.test_redis_py_4098_a_queue_that_is_idle_for_longer_than_an_answer_may_take_hears_and_works_on,
)
def silence_is_taken_for_an_end(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PubSub, "ping", lambda *_: None)


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("mutant", EARS, ids=str)
def test_a_mutant_of_the_channel_does_not_survive(
    mutant: Mutant, redis_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(yadtq.ledger.redis, "ANSWER_S", 2.0)  # the test itself waits for what is in use

    @contextmanager
    def ground() -> Iterator[tuple[RedisBench]]:
        with redis_bench(redis_url, prefix) as bench:
            open_ledger(bench.ledger, "q")
            bench.start("w1")
            yield (bench,)
            bench.wipe()

    turns_red(mutant, ground)


# -- runners -----------------------------------------------------------------------------------------------------------


@RUNNERS.add(
    "the page says STARTED as long as user code runs, so that a death is charged to it and to nothing else",
    test_pool_death.test_a_runner_that_is_killed_is_replaced_and_its_task_can_run_again_within_a_second,
)
def ended_before_the_outcome_is_there(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(runner_bench.Bench, "target", "mutant_app:hasty")


def unheard(bench: runner_bench.Bench) -> None:
    with pytest.MonkeyPatch.context() as patch:
        test_pool_death.look_far_ahead(patch)
        hears, witness = test_pool_death.be_deaf(patch), Path(bench.gate.path).parent / secrets.token_hex(4)
        witness.mkdir()
        test_pool_death.test_what_had_ended_in_a_dead_runner_that_could_not_say_so_is_lost_and_does_not_start_again(
            bench, witness, hears
        )


@RUNNERS.add("what had ended when its runner died is claimed anew (C7)", unheard)
def what_had_ended_is_handed_on(patch: pytest.MonkeyPatch) -> None:
    really = RunnerProcess.end_of

    def end_of(self: RunnerProcess, flight: Flight) -> Outcome | None:
        outcome = really(self, flight)
        return None if outcome is not None and outcome.ending is Ending.LOST else outcome

    patch.setattr(RunnerProcess, "end_of", end_of)


@RUNNERS.add(
    "a child looks at the lease before each start (C6)",
    lambda bench: test_pool_lease.test_the_children_of_a_worker_that_stands_still_stop_starting_by_themselves(
        bench, "witnessed"
    ),
)
def child_starts_under_any_lease(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(runner_bench.Bench, "target", "mutant_app:careless")


@RUNNERS.add(
    "and before each coroutine (C6)",
    lambda bench: test_pool_lease.test_the_children_of_a_worker_that_stands_still_stop_starting_by_themselves(
        bench, "witnessed_async"
    ),
)
def child_starts_coroutines_under_any_lease(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(runner_bench.Bench, "target", "mutant_app:careless")


@RUNNERS.add(
    "another incarnation is another number (C6)",
    test_pool_lease.test_a_new_incarnation_starts_nothing_that_a_child_has_of_the_old_one,
)
def one_number_for_all_leases(patch: pytest.MonkeyPatch) -> None:
    really = Seats.renew
    patch.setattr(Seats, "renew", lambda self, _, until_s: really(self, 1, until_s))
    patch.setattr(Line, "number", property(lambda _: 1, lambda *_: None), raising=False)


@RUNNERS.add(
    "a child that is started has the present lease", test_pool_lease.test_a_child_that_comes_later_has_the_present_lease
)
def no_lease_for_a_new_child(patch: pytest.MonkeyPatch) -> None:
    written: list[Seats] = []
    really = runner_bench.Bench.all_of
    # What comes within the test's 10 s on sound ground would not come here in as many minutes.
    patch.setattr(runner_bench.Bench, "all_of", lambda self, attempts, _: really(self, attempts, 2))

    def write_to(self: Line, page: Seats) -> None:
        if len(written) < 2:  # the first child, and the renewal for it
            page.renew(self.number, self._lease.until_s)
        written.append(page)

    patch.setattr(Line, "write_to", write_to)


def with_a_runner(kind: Callable[[Sink], Runner], ended: str) -> Callable[[runner_bench.Bench], None]:
    def on_a_bench(bench: runner_bench.Bench) -> None:
        test = test_runner.test_what_the_lease_does_not_allow_is_given_back_and_what_runs_runs_on
        runner = kind(bench.sink)
        try:
            test(runner, bench, "double", ended)
        finally:
            runner.kill()

    on_a_bench.__name__ = f"{kind.__name__}, {ended}"
    return on_a_bench


@RUNNERS.add(
    "what waits for a child is not given to one under another lease (C6)",
    with_a_runner(runner_bench.pool, "of another incarnation"),
)
def what_waits_is_given_under_any_lease(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Line, "lapsed", lambda _: [])


@RUNNERS.add(
    "a slot of this process looks at the lease before each start (C6)", with_a_runner(runner_bench.inline, "over")
)
def slot_starts_under_any_lease(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Lease, "allows", lambda *_: True)


@pytest.mark.parametrize("mutant", RUNNERS, ids=str)
def test_a_mutant_of_the_runners_does_not_survive(mutant: Mutant, tmp_path: Path) -> None:
    @contextmanager
    def ground() -> Iterator[tuple[runner_bench.Bench]]:
        with pytest.MonkeyPatch.context() as patch, runner_bench.staged(tmp_path, patch) as bench:
            yield (bench,)

    turns_red(mutant, ground)
