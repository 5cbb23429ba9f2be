"""What is measured beside YADTQ. The files of other queues run in environments of their own, as scripts."""
