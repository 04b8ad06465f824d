"""Token buckets, who rests until when, and the error windows of jobs."""

from alembic import op

from servicekit.migrations import app_role, dispatch_role, fence_tenants, open_to_dispatch

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Adds them; who has no bucket is not limited."""
    op.execute(
        """
        CREATE TABLE buckets (
            tenant_id uuid NOT NULL,
            scope text NOT NULL,
            domain text NOT NULL DEFAULT '',
            rate double precision,
            slowed_to double precision,
            slowed_at timestamptz,
            permits double precision NOT NULL DEFAULT 0,
            filled_at timestamptz NOT NULL,
            PRIMARY KEY (tenant_id, scope, domain),
            CHECK ((scope = 'domain') = (domain <> '')),
            CHECK (rate > 0 AND slowed_to > 0 AND (slowed_to IS NULL) = (slowed_at IS NULL))
        ) WITH (fillfactor = 50)
        """
    )
    fence_tenants("buckets")

    op.execute("ALTER TABLE tenant_turns ADD rests_until timestamptz NOT NULL DEFAULT '-infinity'")
    op.execute(f"GRANT UPDATE (rests_until) ON tenant_turns TO {app_role()}")

    op.execute("ALTER TABLE batches ADD domain text NOT NULL DEFAULT ''")
    op.execute(f"GRANT SELECT (domain) ON batches TO {dispatch_role()}")
    op.execute(
        "CREATE INDEX batches_held ON batches (tenant_id, domain, due_at, id) WHERE status = 'ready' AND lane = 'held'"
    )
    op.execute(
        """
        CREATE TABLE held_domains (
            tenant_id uuid NOT NULL,
            domain text NOT NULL,
            due_at timestamptz NOT NULL,
            PRIMARY KEY (tenant_id, domain)
        )
        """
    )
    fence_tenants("held_domains")
    open_to_dispatch("held_domains", "SELECT, UPDATE (due_at)")

    op.execute(
        """
        CREATE TABLE error_windows (
            tenant_id uuid NOT NULL,
            job_id uuid NOT NULL,
            began_at timestamptz NOT NULL,
            results integer NOT NULL,
            failures integer NOT NULL,
            PRIMARY KEY (tenant_id, job_id),
            FOREIGN KEY (tenant_id, job_id) REFERENCES send_jobs (tenant_id, id)
        ) WITH (fillfactor = 50)
        """
    )
    fence_tenants("error_windows")
