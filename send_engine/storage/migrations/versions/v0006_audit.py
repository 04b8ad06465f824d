"""The audit log; and ESP credentials that are encrypted under another master key, tenant by tenant."""

from servicekit.migrations import create_audit_log, open_to_dispatch

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Adds the log, empty, and tells the dispatch role which tenants have an account."""
    create_audit_log()
    open_to_dispatch("esp_accounts", "SELECT (tenant_id)")
