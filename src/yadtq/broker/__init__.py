"""The broker port. Importing it loads no Kafka client; `connect` does."""

from yadtq.broker.protocol import (
    Broker,
    Consumer,
    Flight,
    Listener,
    Message,
    OnReport,
    OnReports,
    Producer,
    Reader,
    Record,
    Report,
    Sender,
    Start,
    TopicPartition,
    ensure_topic,
    membership,
)
from yadtq.settings import Settings, advice

__all__ = [
    "Broker",
    "Consumer",
    "Flight",
    "Listener",
    "Message",
    "OnReport",
    "OnReports",
    "Producer",
    "Reader",
    "Record",
    "Report",
    "Sender",
    "Start",
    "TopicPartition",
    "connect",
    "ensure_topic",
    "membership",
]


def connect(settings: Settings) -> Broker:
    """Return the broker that the settings name. Nothing is sent before it is used."""
    from yadtq.broker.kafka import KafkaBroker

    return KafkaBroker(settings.kafka_config(), settings.kafka.masked, advice(settings.kafka))
