"""Access tokens that are ended before their time."""

from alembic import op

from servicekit.migrations import fence_tenants

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Adds the list; it is empty at first."""
    op.execute(
        """
        CREATE TABLE revocations (
            tenant_id uuid NOT NULL REFERENCES tenants (tenant_id),
            ended text NOT NULL CHECK (ended IN ('token', 'client')),
            id uuid NOT NULL,
            until timestamptz NOT NULL,
            PRIMARY KEY (tenant_id, ended, id)
        )
        """
    )
    fence_tenants("revocations", "SELECT, INSERT, UPDATE")
    # The owner, fenced like everybody else, sees exactly those that may go.
    op.execute("CREATE POLICY upkeep ON revocations TO CURRENT_USER USING (until < messmail_now())")
