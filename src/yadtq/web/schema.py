"""The tables of the read model.

One invariant: `counts` is exact at any moment, because triggers keep it in the statement that changes a row.

A list is read by kind and status: `counts` says which pairs hold rows at all, and the index gives the newest of each.
So a filter costs the same with ten rows and with a million, however rare what it looks for, and one index does for all
of them: each further one would cost a tenth of the indexing rate.
"""

VERSION = 2  # raise it with any change here: files of another version are rebuilt from Kafka

SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    # check: a checksum of the record before `next`, to know another Kafka by
    """CREATE TABLE positions (topic TEXT, partition INTEGER, next INTEGER NOT NULL, checksum INTEGER NOT NULL,
        PRIMARY KEY (topic, partition)) WITHOUT ROWID""",
    """CREATE TABLE kinds (id INTEGER PRIMARY KEY, queue TEXT NOT NULL, task_type TEXT NOT NULL,
        UNIQUE (queue, task_type))""",
    """CREATE TABLE counts (kind INTEGER, status TEXT, tasks INTEGER NOT NULL,
        PRIMARY KEY (kind, status)) WITHOUT ROWID""",
    # the newest life of the ledger whose marker stands before `next`
    """CREATE TABLE epochs (topic TEXT, partition INTEGER, epoch INTEGER NOT NULL,
        PRIMARY KEY (topic, partition)) WITHOUT ROWID""",
    # what: 'dead' (dead letters) or 'undecodable' (bytes that are no envelope or outcome)
    """CREATE TABLE oddities (queue TEXT, what TEXT, records INTEGER NOT NULL,
        PRIMARY KEY (queue, what)) WITHOUT ROWID""",
    """CREATE TABLE tasks (
        id INTEGER PRIMARY KEY,
        task_id TEXT NOT NULL UNIQUE,
        kind INTEGER NOT NULL,
        status TEXT NOT NULL,
        queued_at_ms INTEGER NOT NULL,
        task_args TEXT,
        task_kwargs TEXT,
        attempts INTEGER NOT NULL,
        worker TEXT,
        result TEXT,
        error_log TEXT,
        started_at_ms INTEGER,
        finished_at_ms INTEGER,
        topic TEXT NOT NULL,
        partition INTEGER NOT NULL,
        offset INTEGER NOT NULL,
        generation INTEGER NOT NULL DEFAULT 0,
        epoch INTEGER NOT NULL DEFAULT 0,
        not_before_ms INTEGER,
        replay_of TEXT)""",
    "CREATE INDEX replays ON tasks (replay_of) WHERE replay_of IS NOT NULL",
    "CREATE INDEX listed ON tasks (kind, status, queued_at_ms, task_id)",
    "CREATE INDEX waiting ON tasks (topic, partition, offset) WHERE status = 'QUEUED'",
    """CREATE TRIGGER counted AFTER INSERT ON tasks BEGIN
        INSERT INTO counts VALUES (new.kind, new.status, 1)
        ON CONFLICT (kind, status) DO UPDATE SET tasks = tasks + 1; END""",
    """CREATE TRIGGER recounted AFTER UPDATE OF status ON tasks WHEN old.status != new.status BEGIN
        UPDATE counts SET tasks = tasks - 1 WHERE kind = old.kind AND status = old.status;
        INSERT INTO counts VALUES (new.kind, new.status, 1)
        ON CONFLICT (kind, status) DO UPDATE SET tasks = tasks + 1; END""",
    """CREATE TRIGGER discounted AFTER DELETE ON tasks BEGIN
        UPDATE counts SET tasks = tasks - 1 WHERE kind = old.kind AND status = old.status; END""",
)
