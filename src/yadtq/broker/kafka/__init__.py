"""The Kafka broker.

One invariant: nothing outside this package imports confluent_kafka.
"""

from yadtq.broker.kafka.cluster import KafkaBroker

__all__ = ["KafkaBroker"]
