"""Runs scenarios one after the other on services of its own, or on those that are named.

One invariant: a scenario that fails is a line of the report and no end of the bench; Ctrl+C is the end of it.
"""

import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from yadtq.bench.contestants.peers import Peers
from yadtq.bench.facts import facts
from yadtq.bench.ground import Ground
from yadtq.bench.plan import Plan
from yadtq.bench.report import Report
from yadtq.bench.scenario import Bench, Finding, Say, Scenario
from yadtq.bench.scenarios.computing import computing
from yadtq.bench.scenarios.drain import drain
from yadtq.bench.scenarios.enqueue import enqueue
from yadtq.bench.scenarios.far import far
from yadtq.bench.scenarios.holding import holding
from yadtq.bench.scenarios.latency import latency
from yadtq.bench.scenarios.recovery import recovery
from yadtq.bench.scenarios.waiting import waiting
from yadtq.bench.site import Far, Site
from yadtq.dev.process import Interrupt
from yadtq.errors import SettingsError, YadtqError

SCENARIOS: dict[str, Scenario] = {
    "drain": drain,
    "enqueue": enqueue,
    "latency": latency,
    "io": waiting,
    "cpu": computing,
    "recovery": recovery,
    "memory": holding,
    "far": far,
}


@dataclass(frozen=True)
class Wish:
    """What is asked of a bench."""

    scenarios: Sequence[str] = ()  # none: all
    peers_folder: Path | None = None  # None: no peers
    kafka: str = ""  # both or none
    redis: str = ""
    quick: bool = False
    logs: Path = Path("bench-report/logs")  # the words of every process that is started; emptied first


def chosen(names: Sequence[str]) -> dict[str, Scenario]:
    """The scenarios with these names; all where none is named.

    Raises:
        SettingsError: One of them is not known.
    """
    for name in names:
        if name not in SCENARIOS:
            raise SettingsError(f"there is no scenario {name!r}; known are {', '.join(SCENARIOS)}")
    return {name: scenario for name, scenario in SCENARIOS.items() if not names or name in names}


def run(wish: Wish, plan: Plan, interrupt: Interrupt, say: Say) -> Report:
    """Run what is wished for.

    One that could not be run is a finding with a problem.

    Raises:
        SettingsError: Only one of Kafka and Redis is named, or a scenario is not known.
        KeyboardInterrupt: A signal came in; everything that was started is ended.
    """
    scenarios = chosen(wish.scenarios)
    if bool(wish.kafka) != bool(wish.redis):
        raise SettingsError("a bench needs --kafka and --redis, or neither of them: then it starts its own")
    findings: dict[str, Finding] = {}
    with _site(wish, interrupt) as (site, services):
        peers = Peers(wish.peers_folder, own_redis=not wish.redis)
        machine = facts(services)
        for name, scenario in scenarios.items():
            say(f"{name} begins")
            findings[name] = _tried(scenario, Bench(site, plan, peers, say), name)
    return Report(machine, plan.runs, wish.quick, findings)


def _tried(scenario: Scenario, bench: Bench, name: str) -> Finding:
    try:
        return scenario(bench)
    except YadtqError as error:
        bench.say(f"{name} failed: {error}")
        return Finding(name, problems=[str(error)])


@contextmanager
def _site(wish: Wish, interrupt: Interrupt) -> Iterator[tuple[Site, dict[str, str]]]:
    """The services, and what there is to say of them. Their data goes with the bench, logs stay."""
    data = Path(tempfile.mkdtemp(prefix="yadtq-bench-"))
    folder = wish.logs.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    number = f"bench-{uuid.uuid4().hex[:8]}"
    try:
        if wish.kafka:
            yield (
                Site(wish.kafka, wish.redis, folder, number, interrupt),
                {"kafka": "by --kafka", "valkey": "by --redis"},
            )
            return
        ground = Ground(data, minded=True, usual_ports=False, interrupt=interrupt)
        ground.up()
        try:
            states = {state.name: state for state in ground.status()}
            roads = Far(ground.kafka_far, ground.kafka_proxy, states["redis"].record.port, ground.redis_proxy)
            pids = {state.title: state.record.pid for state in states.values()}
            versions = {state.title.lower(): state.record.version for state in states.values()}
            yield Site(ground.kafka, ground.redis, folder, number, interrupt, roads, pids), versions
        finally:
            ground.down()
    finally:
        shutil.rmtree(data, ignore_errors=True)
