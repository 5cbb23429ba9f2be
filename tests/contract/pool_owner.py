"""Owns a pool, starts one task and prints what becomes of the pool; killed by a test.

python pool_owner.py task arguments...
"""

import json
import sys
import threading

from yadtq.attempt import Attempt, Lease
from yadtq.runners.pool import PoolRunner
from yadtq.service import SystemClock

if __name__ == "__main__":
    pool = PoolRunner("runner_app:app", 2, 2, lambda _: None, 1_000, on_event=lambda kind, _: print(kind, flush=True))
    pool.renew(Lease("life", SystemClock().mono_s() + 3_600))
    args = json.dumps(sys.argv[2:]).encode()
    pool.start([Attempt(1, "t1", sys.argv[1], args, b"{}", 1, "1.1", incarnation="life")])
    threading.Event().wait()
