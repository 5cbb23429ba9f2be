"""How fast: scenarios on a real Kafka and a real Valkey, each beside a floor and beside other queues, in one report.

One invariant: a figure counts only with its proof of delivery: every run reads back what became of every task.
"""
