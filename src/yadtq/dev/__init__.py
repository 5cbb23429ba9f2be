"""What a developer's machine needs around YADTQ: a real Kafka and a real Valkey that start by themselves."""
