"""One Kafka broker that is its own controller, with its data in a folder.

One invariant: `data/` is a formatted store or is not there; formatting happens beside it and moves into place.

When this process dies while formatting, the half store is left beside and is made anew next time.
"""

import base64
import shutil
import subprocess
import uuid
from pathlib import Path

from yadtq.dev import java, port, probe
from yadtq.dev.jars import KAFKA_VERSION, JarStore
from yadtq.dev.node import Launch, Reporter, tail
from yadtq.dev.port import HOST
from yadtq.dev.process import Interrupt, wait_until
from yadtq.errors import ServiceError

FORMAT_S = 120.0
# A young generation of 96 MB, where the JVM would begin with 20: at 200 tasks a second that was full every second, and
# each time everybody waited 10 ms.
HEAP = ("-XX:+UseSerialGC", "-Xms160m", "-Xmn96m", "-Xmx512m")  # 200-300 MB resident
# A broker beside its clients, on their cores, for minutes: the optimising compiler takes a quarter of a core for as
# long as there is load, and what it makes is not faster at this broker's work than what the first one made.
COMPILER = ("-XX:TieredStopAtLevel=1",)
LOG4J = Path(__file__).with_name("log4j2.properties")

# One node needs one copy of everything, and one partition where a cluster spreads load over many.
PROPERTIES = """\
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
controller.quorum.bootstrap.servers={host}:{controller_port}
log.dirs={data}
auto.create.topics.enable=false
default.replication.factor=1
min.insync.replicas=1
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# A worker that comes back after a long holiday continues where it was: one year.
offsets.retention.minutes=525600
# After a kill -9 the controller waits for the dead broker's session to end before it takes its successor. Both are one
# process here, so nothing but such a kill parts them for long.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
# Groups start without waiting for more members, and tests may ask for short sessions and heartbeats.
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.min.session.timeout.ms=6000
group.consumer.session.timeout.ms=6000
group.consumer.min.heartbeat.interval.ms=100
group.consumer.heartbeat.interval.ms=1000
# A dead letter carries the bytes of what it replaces and the reason on top.
message.max.bytes=2097152
# The 128 MB that this takes otherwise are more than the rest of a small broker.
log.cleaner.dedupe.buffer.size=4194304
"""


class KafkaNode:
    """Knows how to start Kafka in a folder and how to ask it."""

    name = "kafka"
    title = "Kafka"
    usual_port = 9092
    start_s = 60.0
    stop_s = 60.0  # the first run writes its class-data archive at its end: 3 s here, more on a busy machine

    def __init__(self, folder: Path, logs: Path, cache: Path) -> None:
        self._folder = folder
        self._data = folder / "data"
        self._logs = logs
        self._archives = cache / "class-data"
        self._jars = JarStore(cache)
        self.log = logs / "kafka.out"  # what the JVM says

    def address(self, number: int) -> str:
        return f"{HOST}:{number}"

    def answers(self, number: int, _pid: int) -> bool:
        cluster = probe.kafka_cluster(number)
        return bool(cluster) and cluster == self._cluster_id()

    def last_words(self) -> str:
        return tail(self._logs / "kafka.log") + tail(self.log)

    def launch(self, number: int, reporter: Reporter, interrupt: Interrupt) -> Launch:
        """Fetch, format and configure what is not yet, and say how to start it."""
        found = java.find()
        with reporter.download("fetching Kafka") as on_progress:
            jars = self._jars.provide(interrupt, on_progress)
        archive = java.Archive.of(found, self._jars.digest, self._archives, self._folder)
        # Kafka frees mapped files in a way that newer ones warn of, and will refuse one day.
        allow = ["--sun-misc-unsafe-memory-access=allow"] if found.number >= 24 else []
        options = [*HEAP, *COMPILER, *allow, *archive.options(found), *self._logging()]
        run = [str(found.path), *options, "-cp", ":".join(map(str, jars))]
        self._folder.mkdir(exist_ok=True)
        if not self._data.exists():
            reporter.state(self.name, "formatting its data folder")
            self._format(run, number, interrupt)
        command = [*run, "kafka.Kafka", str(self._configure(number, self._data))]
        version = f"Apache Kafka {KAFKA_VERSION} on Java {found.version}"
        return Launch(command, version, suspect=archive.path if archive.path.exists() else None)

    def stopped(self) -> None:
        """Keep the class-data archive, if the run that has ended wrote one."""
        java.keep_drafts(self._archives, self._folder)

    def _logging(self) -> list[str]:
        return [f"-Dyadtq.logs={self._logs}", f"-Dlog4j2.configurationFile={LOG4J}"]

    def _format(self, run: list[str], number: int, interrupt: Interrupt) -> None:
        draft = self._folder / "data.new"
        shutil.rmtree(draft, ignore_errors=True)
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        # An id that began with a dash would be read as an option.
        arguments = ["format", "--standalone", "-t", f"A{cluster[1:]}", "-c", str(self._configure(number, draft))]
        # It would write the archive of its own few classes.
        run = [option for option in run if not option.startswith("-XX:ArchiveClassesAtExit")]
        output = self._logs / "kafka-format.out"
        with output.open("wb") as file:
            child = subprocess.Popen(
                [*run, "kafka.tools.StorageTool", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            wait_until(lambda: child.poll() is not None, FORMAT_S, interrupt)
        finally:
            child.kill()
            child.wait()
        if child.returncode:
            raise ServiceError(f"Kafka's data folder could not be formatted:\n{tail(output)}")
        draft.replace(self._data)

    def _configure(self, number: int, data: Path) -> Path:
        controller = port.choose([], taken=[number])
        path = self._folder / "server.properties"
        path.write_text(PROPERTIES.format(host=HOST, port=number, controller_port=controller, data=data))
        return path

    def _cluster_id(self) -> str:
        text = (self._data / "meta.properties").read_text()
        return next(line.removeprefix("cluster.id=") for line in text.splitlines() if line.startswith("cluster.id="))
