"""Owns a pool and starts one task; killed by a test. `python pool_owner.py task arguments...`"""

import json
import sys
import threading

from yadtq.attempt import Attempt
from yadtq.runners.pool import PoolRunner

if __name__ == "__main__":
    pool = PoolRunner("runner_app:app", 2, 2, lambda _: None, 1_000)
    pool.start([Attempt(1, "t1", sys.argv[1], json.dumps(sys.argv[2:]).encode(), b"{}", 1, "1.1")])
    threading.Event().wait()
