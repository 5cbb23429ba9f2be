"""How much of the rate is left when Redis is 2 ms and Kafka 8 ms away: a worker that waits for neither keeps most.

The same drain three times: direct, over a proxy that adds nothing (what the proxy itself costs), and over one that adds
these times to every round trip.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from yadtq.bench.scenario import Bench, Finding, Measure, in_turns
from yadtq.bench.scenarios.drain import OnKafka
from yadtq.bench.site import Far
from yadtq.dev.port import HOST, is_free

REDIS_MS, KAFKA_MS = 2.0, 8.0
UP_S = 10.0


def far(bench: Bench) -> Finding:
    """Drain from afar."""
    finding = Finding(f"Draining with {REDIS_MS:g} ms added to Redis and {KAFKA_MS:g} ms to Kafka")
    roads = bench.site.far
    if roads is None:
        finding.notes.append(
            "left out: the services are not the bench's own, and Kafka has to name the proxy as itself"
        )
        return finding
    site = bench.site.at(kafka=f"{HOST}:{roads.kafka_proxy}", redis=f"redis://{HOST}:{roads.redis_proxy}/0")
    size = bench.plan.afar
    with ExitStack() as stack:
        app = stack.enter_context(bench.site.app("far"))

        def over(series: str, redis_ms: float, kafka_ms: float) -> Measure:
            drain = OnKafka(series, app, bench, finding, size, site)

            def measure(share: float) -> dict[str, float]:
                with proxy(bench, roads, redis_ms, kafka_ms):
                    return drain(share)

            return measure

        contestants: dict[str, Measure] = {
            "direct": OnKafka("direct", app, bench, finding, size),
            "proxy": over("over a proxy", 0, 0),
            "far": over("far", REDIS_MS, KAFKA_MS),
        }
        in_turns(bench, finding, contestants, dict.fromkeys(("direct", "over a proxy", "far"), "tasks/s"))
    return finding


@contextmanager
def proxy(bench: Bench, roads: Far, redis_ms: float, kafka_ms: float) -> Iterator[None]:
    """A proxy to both services while the block runs."""
    routes = [[roads.redis_proxy, roads.redis, redis_ms], [roads.kafka_proxy, roads.kafka, kafka_ms]]
    ports = roads.redis_proxy, roads.kafka_proxy
    with bench.site.running("proxy", [sys.executable, "-m", "yadtq.bench.proxy", json.dumps(routes)]) as process:
        bench.site.until(lambda: not any(map(is_free, ports)), "the proxy", UP_S, process)
        yield
