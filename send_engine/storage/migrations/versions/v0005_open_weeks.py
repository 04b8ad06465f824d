"""Upkeep sees which batches are not closed, so that it drops no week in which somebody is still to be sent a mail."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Shows the owner, fenced like everybody else, exactly the batches whose deliveries must stay."""
    op.execute("CREATE POLICY upkeep ON batches FOR SELECT TO CURRENT_USER USING (status <> 'closed')")
