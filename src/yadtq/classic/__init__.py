"""The original command lines: producer.py, consumer.py, guarantee_consumer.py and monitor_heartbeat.py."""
