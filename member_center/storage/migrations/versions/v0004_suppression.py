"""Suppressed addresses, the key of their hashes, and when a pending subscription was last sent a mail."""

from alembic import op

from servicekit.migrations import app_role, fence_tenants

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Adds them; nobody is suppressed at first."""
    op.execute(
        """
        CREATE TABLE address_hash_keys (
            tenant_id uuid PRIMARY KEY REFERENCES tenants (tenant_id),
            encrypted_key bytea NOT NULL,
            created_at timestamptz NOT NULL DEFAULT messmail_now()
        )
        """
    )
    fence_tenants("address_hash_keys", "SELECT, INSERT, UPDATE (encrypted_key)")
    op.execute(
        """
        CREATE TABLE suppressions (
            tenant_id uuid NOT NULL REFERENCES tenants (tenant_id),
            id uuid NOT NULL,
            address_hash bytea NOT NULL CHECK (length(address_hash) = 32),
            list_id uuid,
            scope text NOT NULL CHECK (scope IN ('newsletter', 'everything')),
            reason text NOT NULL CHECK (reason IN ('complaint', 'erased', 'manual', 'bounced')),
            created_at timestamptz NOT NULL DEFAULT messmail_now(),
            PRIMARY KEY (tenant_id, id),
            FOREIGN KEY (tenant_id, list_id) REFERENCES lists (tenant_id, id)
        )
        """
    )
    # Each reason is lifted by itself.
    op.execute(
        "CREATE UNIQUE INDEX suppressions_address ON suppressions (tenant_id, address_hash, list_id, reason) "
        "NULLS NOT DISTINCT"
    )
    op.execute("CREATE INDEX suppressions_oldest ON suppressions (tenant_id, created_at, id)")
    fence_tenants("suppressions", "SELECT, INSERT, UPDATE (scope), DELETE")

    op.execute("ALTER TABLE subscriptions ADD pending_mailed_at timestamptz")
    # To erase a person. The consent log and the outbox follow by their foreign keys, and cannot be reached otherwise.
    op.execute(f"GRANT DELETE ON subscriptions TO {app_role()}")
