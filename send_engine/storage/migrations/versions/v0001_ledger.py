"""Send jobs, their ledger, ESP accounts and the turns of the tenants."""

from alembic import op

from servicekit.migrations import app_role, create_clock, dispatch_role, fence_tenants, open_to_dispatch

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Creates everything."""
    create_clock()
    op.execute(
        """
        CREATE TABLE send_jobs (
            tenant_id uuid NOT NULL,
            id uuid NOT NULL,
            list_id uuid NOT NULL,
            name text NOT NULL,
            subject text NOT NULL,
            body_html text,
            body_text text,
            template boolean NOT NULL,
            on_unknown text NOT NULL,
            profile jsonb NOT NULL,
            status text NOT NULL,
            status_reason text NOT NULL DEFAULT '',
            scheduled_at timestamptz NOT NULL,
            created_at timestamptz NOT NULL,
            started_at timestamptz,
            ended_at timestamptz,
            audience_as_of timestamptz,
            planned_after uuid,
            planned_count integer,
            cancelled_sent integer,
            cancelled_sending integer,
            PRIMARY KEY (tenant_id, id)
        )
        """
    )
    op.execute("CREATE INDEX send_jobs_newest ON send_jobs (tenant_id, created_at DESC, id DESC)")
    fence_tenants("send_jobs", "SELECT, INSERT, UPDATE")

    op.execute(
        """
        CREATE TABLE batches (
            tenant_id uuid NOT NULL,
            id uuid NOT NULL,
            job_id uuid NOT NULL,
            lane text NOT NULL,
            status text NOT NULL,
            due_at timestamptz NOT NULL,
            attempt smallint NOT NULL DEFAULT 1,
            lapses smallint NOT NULL DEFAULT 0,
            give_up_at timestamptz,
            lease_until timestamptz,
            fence bigint NOT NULL DEFAULT 0,
            worker text NOT NULL DEFAULT '',
            size integer NOT NULL DEFAULT 0,
            marked_until integer NOT NULL DEFAULT 0,
            recorded_until integer NOT NULL DEFAULT 0,
            sent integer NOT NULL DEFAULT 0,
            failed integer NOT NULL DEFAULT 0,
            suppressed integer NOT NULL DEFAULT 0,
            cancelled integer NOT NULL DEFAULT 0,
            unknown integer NOT NULL DEFAULT 0,
            moved integer NOT NULL DEFAULT 0,
            PRIMARY KEY (tenant_id, id),
            FOREIGN KEY (tenant_id, job_id) REFERENCES send_jobs (tenant_id, id),
            CHECK (0 <= recorded_until AND recorded_until <= marked_until AND marked_until <= size),
            CHECK (sent + failed + suppressed + cancelled + unknown + moved = recorded_until)
        ) WITH (fillfactor = 70)
        """
    )
    op.execute("CREATE INDEX batches_of_job ON batches (tenant_id, job_id)")
    op.execute("CREATE INDEX batches_due ON batches (tenant_id, lane, due_at, id) WHERE status = 'ready'")
    fence_tenants("batches", "SELECT, INSERT, UPDATE")
    open_to_dispatch(
        "batches",
        "SELECT (tenant_id, id, job_id, lane, status, due_at, attempt, lapses, give_up_at, lease_until, fence, worker, "
        "size, marked_until, recorded_until), UPDATE (lease_until, fence, worker)",
    )

    op.execute(
        """
        CREATE TABLE deliveries (
            tenant_id uuid NOT NULL,
            batch_id uuid NOT NULL,
            ordinal integer NOT NULL,
            subscription_id uuid NOT NULL,
            domain text NOT NULL,
            state text NOT NULL DEFAULT 'pending',
            attempts smallint NOT NULL DEFAULT 0,
            reason text NOT NULL DEFAULT '',
            last_reply text NOT NULL DEFAULT '',
            recorded_at timestamptz,
            PRIMARY KEY (tenant_id, batch_id, ordinal),
            FOREIGN KEY (tenant_id, batch_id) REFERENCES batches (tenant_id, id)
        ) PARTITION BY RANGE (batch_id)
        """
    )
    # Every row is updated about once; half a page left free keeps the new version beside the old, off the index.
    op.execute("CREATE TABLE deliveries_default PARTITION OF deliveries DEFAULT WITH (fillfactor = 50)")
    fence_tenants("deliveries", "SELECT, INSERT, UPDATE")

    op.execute(
        """
        CREATE TABLE esp_accounts (
            tenant_id uuid PRIMARY KEY,
            relay text NOT NULL,
            encrypted_url bytea NOT NULL
        )
        """
    )
    fence_tenants("esp_accounts", "SELECT, INSERT, UPDATE")

    op.execute(
        """
        CREATE TABLE tenant_turns (
            tenant_id uuid PRIMARY KEY,
            served_at timestamptz NOT NULL DEFAULT '-infinity'
        )
        """
    )
    fence_tenants("tenant_turns", "SELECT, INSERT")
    open_to_dispatch("tenant_turns", "SELECT, UPDATE (served_at)")
    # Both find work by the database's clock; nobody else needs it.
    op.execute("REVOKE EXECUTE ON FUNCTION messmail_now() FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION messmail_now() TO {app_role()}, {dispatch_role()}")
