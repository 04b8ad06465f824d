"""The audit log; and keys that are taken away, or encrypted under another master key."""

from alembic import op

from servicekit.migrations import app_role, create_audit_log

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Adds the log, empty, and lets keys be changed."""
    create_audit_log()
    op.execute(f"GRANT UPDATE (encrypted_key) ON signing_keys, link_keys TO {app_role()}")
    op.execute(f"GRANT DELETE ON link_keys TO {app_role()}")
