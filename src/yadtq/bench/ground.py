"""The bench's own Kafka and Valkey: as those of `yadtq up`, and Kafka can be reached over a proxy too.

One invariant: whoever comes in by the far door is sent to the proxy for everything; the near door is as ever.
"""

from pathlib import Path

from yadtq.dev import port
from yadtq.dev.jars import cache_folder
from yadtq.dev.kafka_node import KafkaNode
from yadtq.dev.node import Node
from yadtq.dev.port import HOST
from yadtq.dev.services import Services


class TwoDoors(KafkaNode):
    """Kafka with a second listener, whose address for clients is a proxy's."""

    far = 0
    proxy = 0

    def _configure(self, number: int, data: Path) -> Path:
        path = super()._configure(number, data)
        far = {
            "listeners": f"FAR://{HOST}:{self.far}",
            "advertised.listeners": f"FAR://{HOST}:{self.proxy}",
            "listener.security.protocol.map": "FAR:PLAINTEXT",
        }
        lines = path.read_text().splitlines()
        path.write_text(
            "".join(
                f"{line},{far[name]}\n" if (name := line.partition("=")[0]) in far else f"{line}\n" for line in lines
            )
        )
        return path


class Ground(Services):
    """The services of one bench."""

    kafka_far: int = 0  # Kafka's second port
    kafka_proxy: int = 0  # where a proxy to it has to listen
    redis_proxy: int = 0  # where a proxy to Valkey may listen

    def up(self) -> list[str]:
        self.kafka_far = port.choose([])
        self.kafka_proxy = port.choose([], taken=[self.kafka_far])
        self.redis_proxy = port.choose([], taken=[self.kafka_far, self.kafka_proxy])
        return super().up()

    def _kafka_node(self) -> Node:
        node = TwoDoors(self.folder / "kafka", self._logs, cache_folder())
        node.far, node.proxy = self.kafka_far, self.kafka_proxy
        return node
