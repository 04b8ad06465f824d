"""The tables of Send Engine. The revisions in migrations/ make them; a policy test keeps both equal.

tenant_id leads every key. A delivery row holds its result; whether a pending one is claimed, sending or deferred is
told by its batch (lease_until, marked_until, recorded_until), so that a mark touches one row. The rows before
recorded_until are counted on the batch: sent + failed + suppressed + cancelled + unknown + moved = recorded_until.
"""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from servicekit.audit_store import add_audit_tables

metadata = sa.MetaData()
add_audit_tables(metadata)

_time = sa.DateTime(timezone=True)


def _counter(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False, server_default="0")


send_jobs = sa.Table(
    "send_jobs",
    metadata,
    sa.Column("tenant_id", sa.Uuid, primary_key=True),
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("list_id", sa.Uuid, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("body_html", sa.Text),
    sa.Column("body_text", sa.Text),
    sa.Column("template", sa.Boolean, nullable=False),
    sa.Column("on_unknown", sa.Text, nullable=False),
    # The list's profile when the job was made: what the job says of its sender does not change under way.
    sa.Column("profile", JSONB, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("status_reason", sa.Text, nullable=False, server_default=""),
    sa.Column("scheduled_at", _time, nullable=False),
    sa.Column("created_at", _time, nullable=False),
    sa.Column("started_at", _time),
    sa.Column("ended_at", _time),
    # How far planning has got.
    sa.Column("audience_as_of", _time),
    sa.Column("planned_after", sa.Uuid),
    sa.Column("planned_count", sa.Integer),
    # How long a deferred mail is tried. Left out: as long as the workers' setting says.
    sa.Column("give_up_seconds", sa.Double),
    # Each retry of a completed job is a round of its own, for the deliveries that ended in these states, joined by ",".
    sa.Column("round", sa.SmallInteger, nullable=False, server_default="1"),
    sa.Column("retried_states", sa.Text, nullable=False, server_default=""),
    # The answer to the first cancel, for the repeats.
    sa.Column("cancelled_sent", sa.Integer),
    sa.Column("cancelled_sending", sa.Integer),
    sa.Index("send_jobs_newest", "tenant_id", sa.text("created_at DESC"), sa.text("id DESC")),
)

batches = sa.Table(
    "batches",
    metadata,
    sa.Column("tenant_id", sa.Uuid, primary_key=True),
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("job_id", sa.Uuid, nullable=False),
    sa.Column("lane", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("due_at", _time, nullable=False),
    sa.Column("attempt", sa.SmallInteger, nullable=False, server_default="1"),
    # How often a worker was lost over these recipients.
    sa.Column("lapses", sa.SmallInteger, nullable=False, server_default="0"),
    sa.Column("round", sa.SmallInteger, nullable=False, server_default="1"),
    sa.Column("give_up_at", _time),
    sa.Column("domain", sa.Text, nullable=False, server_default=""),
    sa.Column("lease_until", _time),
    sa.Column("fence", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("worker", sa.Text, nullable=False, server_default=""),
    _counter("size"),
    _counter("marked_until"),
    _counter("recorded_until"),
    _counter("sent"),
    _counter("failed"),
    _counter("suppressed"),
    _counter("cancelled"),
    _counter("unknown"),
    _counter("moved"),
    sa.ForeignKeyConstraint(["tenant_id", "job_id"], ["send_jobs.tenant_id", "send_jobs.id"]),
    sa.Index("batches_of_job", "tenant_id", "job_id", "id"),
    sa.Index("batches_due", "tenant_id", "lane", "due_at", "id", postgresql_where=sa.text("status = 'ready'::text")),
    sa.Index(
        "batches_held",
        *("tenant_id", "domain", "due_at", "id"),
        postgresql_where=sa.text("status = 'ready'::text AND lane = 'held'::text"),
    ),
)

deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("tenant_id", sa.Uuid, primary_key=True),
    sa.Column("batch_id", sa.Uuid, primary_key=True),
    sa.Column("ordinal", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("subscription_id", sa.Uuid, nullable=False),
    sa.Column("domain", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False, server_default="pending"),
    sa.Column("attempts", sa.SmallInteger, nullable=False, server_default="0"),
    sa.Column("reason", sa.Text, nullable=False, server_default=""),
    sa.Column("last_reply", sa.Text, nullable=False, server_default=""),
    sa.Column("recorded_at", _time),
    # Of its batch a trigger makes sure, not a foreign key (docs/decisions/0011).
    postgresql_partition_by="RANGE (batch_id)",
)

# Only successes are kept, and for at least a day.
idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    sa.Column("tenant_id", sa.Uuid, primary_key=True),
    sa.Column("client_id", sa.Uuid, primary_key=True),
    sa.Column("key_hash", sa.LargeBinary, primary_key=True),
    # Of the request that the key came with.
    sa.Column("fingerprint", sa.LargeBinary, nullable=False),
    sa.Column("job_id", sa.Uuid, nullable=False),
    sa.Column("created_at", _time, nullable=False),
    sa.ForeignKeyConstraint(["tenant_id", "job_id"], ["send_jobs.tenant_id", "send_jobs.id"]),
)

esp_accounts = sa.Table(
    "esp_accounts",
    metadata,
    sa.Column("tenant_id", sa.Uuid, primary_key=True),
    sa.Column("relay", sa.Text, nullable=False),
    sa.Column("encrypted_url", sa.LargeBinary, nullable=False),
)

tenant_turns = sa.Table(
    "tenant_turns",
    metadata,
    sa.Column("tenant_id", sa.Uuid, primary_key=True),
    sa.Column("served_at", _time, nullable=False, server_default=sa.text("'-infinity'::timestamp with time zone")),
    # Until then there are no permits for it.
    sa.Column("rests_until", _time, nullable=False, server_default=sa.text("'-infinity'::timestamp with time zone")),
)

# The turns of the domains of which a tenant holds batches; due_at is when each was served, or until when it rests.
held_domains = sa.Table(
    "held_domains",
    metadata,
    sa.Column("tenant_id", sa.Uuid, primary_key=True),
    sa.Column("domain", sa.Text, primary_key=True),
    sa.Column("due_at", _time, nullable=False),
)

# The installation's own are the operator's. A bucket without a rate is of a domain that throttling has slowed.
buckets = sa.Table(
    "buckets",
    metadata,
    sa.Column("tenant_id", sa.Uuid, primary_key=True),
    sa.Column("scope", sa.Text, primary_key=True),
    sa.Column("domain", sa.Text, primary_key=True, server_default=""),
    sa.Column("rate", sa.Double),
    sa.Column("slowed_to", sa.Double),
    sa.Column("slowed_at", _time),
    sa.Column("permits", sa.Double, nullable=False, server_default="0"),
    sa.Column("filled_at", _time, nullable=False),
)

# What became of a job's mails since began_at, for its error budget.
error_windows = sa.Table(
    "error_windows",
    metadata,
    sa.Column("tenant_id", sa.Uuid, primary_key=True),
    sa.Column("job_id", sa.Uuid, primary_key=True),
    sa.Column("began_at", _time, nullable=False),
    sa.Column("results", sa.Integer, nullable=False),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.ForeignKeyConstraint(["tenant_id", "job_id"], ["send_jobs.tenant_id", "send_jobs.id"]),
)
