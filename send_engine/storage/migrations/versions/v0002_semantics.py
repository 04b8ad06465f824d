"""Idempotency keys, rounds of a job, and how long each job tries."""

from alembic import op

from servicekit.migrations import dispatch_role, fence_tenants

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Adds them; what is there keeps its meaning."""
    op.execute("ALTER TABLE send_jobs ADD give_up_seconds double precision")
    op.execute("ALTER TABLE send_jobs ADD round smallint NOT NULL DEFAULT 1")
    op.execute("ALTER TABLE send_jobs ADD retried_states text NOT NULL DEFAULT ''")
    op.execute("ALTER TABLE batches ADD round smallint NOT NULL DEFAULT 1")
    op.execute(f"GRANT SELECT (round) ON batches TO {dispatch_role()}")
    # Deliveries are listed batch by batch, in the order of their ids.
    op.execute("DROP INDEX batches_of_job")
    op.execute("CREATE INDEX batches_of_job ON batches (tenant_id, job_id, id)")
    op.execute(
        """
        CREATE TABLE idempotency_keys (
            tenant_id uuid NOT NULL,
            client_id uuid NOT NULL,
            key_hash bytea NOT NULL,
            fingerprint bytea NOT NULL,
            job_id uuid NOT NULL,
            created_at timestamptz NOT NULL,
            PRIMARY KEY (tenant_id, client_id, key_hash),
            FOREIGN KEY (tenant_id, job_id) REFERENCES send_jobs (tenant_id, id)
        )
        """
    )
    fence_tenants("idempotency_keys", "SELECT, INSERT")
    # The owner, fenced like everybody else, sees exactly the keys that may go.
    op.execute(
        "CREATE POLICY upkeep ON idempotency_keys TO CURRENT_USER "
        "USING (created_at < messmail_now() - interval '24 hours')"
    )
