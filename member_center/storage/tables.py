"""The tables of Member Center. The revisions in migrations/ make them; a policy test keeps both equal.

tenant_id leads every key. What belongs to the installation (internal clients, keys, limits) belongs to the operator, a
tenant with the nil UUID, so that it is fenced like everything else. The three directories are read by tenant_of_list(),
tenant_of_client() and is_allowed_origin() only.
"""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from servicekit.audit_store import add_audit_tables

metadata = sa.MetaData()
add_audit_tables(metadata)

_time = sa.DateTime(timezone=True)
_now = sa.text("messmail_now()")


def _tenant(*, primary_key: bool = True) -> sa.Column[object]:
    return sa.Column("tenant_id", sa.Uuid, sa.ForeignKey("tenants.tenant_id"), primary_key=primary_key)


tenants = sa.Table(
    "tenants",
    metadata,
    sa.Column("tenant_id", sa.Uuid, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("created_at", _time, nullable=False, server_default=_now),
)

lists = sa.Table(
    "lists",
    metadata,
    _tenant(),
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("from_name", sa.Text, nullable=False),
    sa.Column("from_address", sa.Text, nullable=False),
    sa.Column("reply_to", sa.Text, nullable=False),
    sa.Column("envelope_sender", sa.Text, nullable=False),
    sa.Column("language", sa.Text, nullable=False),
    # Limits of this list only; the installation's hold where they are null.
    sa.Column("subscribes_per_address_per_hour", sa.Integer),
    sa.Column("subscribes_per_list_per_minute", sa.Integer),
    sa.Column("created_at", _time, nullable=False, server_default=_now),
    sa.Column("require_token", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("return_confirm_token", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("allowed_origins", ARRAY(sa.Text), nullable=False, server_default="{}"),
    sa.Column("honeypot_field", sa.Text, nullable=False, server_default=""),
)

clients = sa.Table(
    "clients",
    metadata,
    _tenant(),
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("usage", sa.Text, nullable=False),
    sa.Column("scopes", ARRAY(sa.Text), nullable=False),
    sa.Column("secret_hash", sa.LargeBinary, nullable=False),
    sa.Column("previous_secret_hash", sa.LargeBinary),
    sa.Column("created_at", _time, nullable=False, server_default=_now),
    sa.Column("disabled_at", _time),
)

list_directory = sa.Table(
    "list_directory",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("tenant_id", sa.Uuid, nullable=False),
)

client_directory = sa.Table(
    "client_directory",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("tenant_id", sa.Uuid, nullable=False),
)

origin_directory = sa.Table(
    "origin_directory",
    metadata,
    sa.Column("origin", sa.Text, primary_key=True),
    sa.Column("list_id", sa.Uuid, primary_key=True),
    sa.Index("origin_directory_list", "list_id"),
)

signing_keys = sa.Table(
    "signing_keys",
    metadata,
    _tenant(),
    sa.Column("kid", sa.Text, primary_key=True),
    sa.Column("encrypted_key", sa.LargeBinary, nullable=False),
    sa.Column("created_at", _time, nullable=False, server_default=_now),
)

link_keys = sa.Table(
    "link_keys",
    metadata,
    _tenant(),
    sa.Column("key_id", sa.LargeBinary, primary_key=True),
    sa.Column("purpose", sa.Text, nullable=False),
    sa.Column("encrypted_key", sa.LargeBinary, nullable=False),
    sa.Column("created_at", _time, nullable=False, server_default=_now),
)

# Limits of the whole installation, in the operator's row; the defaults hold where they are null.
limits = sa.Table(
    "limits",
    metadata,
    _tenant(),
    sa.Column("subscribes_per_address_per_hour", sa.Integer),
    sa.Column("subscribes_per_list_per_minute", sa.Integer),
    sa.Column("confirmation_mails_per_address_per_day", sa.Integer),
    sa.Column("anonymous_calls_per_ip_per_minute", sa.Integer),
    sa.Column("calls_per_client_per_minute", sa.Integer),
    sa.Column("failed_logins_per_client_and_ip_per_minute", sa.Integer),
    sa.Column("failed_logins_per_ip_per_minute", sa.Integer),
)

revocations = sa.Table(
    "revocations",
    metadata,
    _tenant(),
    # What `id` is of: a token, or a client with all its tokens.
    sa.Column("ended", sa.Text, primary_key=True),
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("until", _time, nullable=False),
)

# The key of the hashes in suppressions, encrypted. It is the operator's, and there is one.
address_hash_keys = sa.Table(
    "address_hash_keys",
    metadata,
    _tenant(),
    sa.Column("encrypted_key", sa.LargeBinary, nullable=False),
    sa.Column("created_at", _time, nullable=False, server_default=_now),
)

# Without a list: for all lists of the tenant.
suppressions = sa.Table(
    "suppressions",
    metadata,
    _tenant(),
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("address_hash", sa.LargeBinary, nullable=False),
    sa.Column("list_id", sa.Uuid),
    sa.Column("scope", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("created_at", _time, nullable=False, server_default=_now),
    sa.ForeignKeyConstraint(["tenant_id", "list_id"], ["lists.tenant_id", "lists.id"]),
    sa.Index(
        "suppressions_address",
        *("tenant_id", "address_hash", "list_id", "reason"),
        unique=True,
        postgresql_nulls_not_distinct=True,
    ),
    sa.Index("suppressions_oldest", "tenant_id", "created_at", "id"),
)

subscriptions = sa.Table(
    "subscriptions",
    metadata,
    sa.Column("tenant_id", sa.Uuid, primary_key=True),
    sa.Column("list_id", sa.Uuid, primary_key=True),
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("address_key", sa.Text, nullable=False),
    sa.Column("address", sa.Text, nullable=False),
    # What holds when nothing is pending; pending_since and what follows lie over it until they expire.
    sa.Column("standing", sa.Text, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("preferences", JSONB(none_as_null=True), nullable=False),
    sa.Column("confirmed_at", _time),
    sa.Column("pending_since", _time),
    sa.Column("pending_expires_at", _time),
    sa.Column("pending_preferences", JSONB(none_as_null=True)),
    # When a confirmation mail was last queued for what is pending.
    sa.Column("pending_mailed_at", _time),
    sa.ForeignKeyConstraint(["tenant_id", "list_id"], ["lists.tenant_id", "lists.id"]),
    sa.Index("subscriptions_address", "tenant_id", "address_key", "list_id", unique=True),
)

# One row for each generation of a subscription: no change without its line, no line without its change.
consent_log = sa.Table(
    "consent_log",
    metadata,
    sa.Column("tenant_id", sa.Uuid, primary_key=True),
    sa.Column("list_id", sa.Uuid, primary_key=True),
    sa.Column("subscription_id", sa.Uuid, primary_key=True),
    sa.Column("generation", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("through", sa.Text, nullable=False),
    sa.Column("at", _time, nullable=False),
    sa.Column("client_id", sa.Uuid),
    sa.Column("ip", sa.Text, nullable=False),
    sa.Column("user_agent", sa.Text, nullable=False),
    sa.Column("source_url", sa.Text, nullable=False),
    sa.Column("evidence", sa.Text, nullable=False),
    sa.Column("text_version", sa.Text, nullable=False),
    sa.ForeignKeyConstraint(
        ["tenant_id", "list_id", "subscription_id"],
        ["subscriptions.tenant_id", "subscriptions.list_id", "subscriptions.id"],
        ondelete="CASCADE",
    ),
)

# The outbox. A lease moves due_at to its end and raises the fence, so what lapsed is simply due again.
confirmation_mails = sa.Table(
    "confirmation_mails",
    metadata,
    sa.Column("tenant_id", sa.Uuid, primary_key=True),
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("list_id", sa.Uuid, nullable=False),
    sa.Column("subscription_id", sa.Uuid, nullable=False),
    sa.Column("created_at", _time, nullable=False),
    sa.Column("due_at", _time, nullable=False),
    sa.Column("fence", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("deferrals", sa.SmallInteger, nullable=False, server_default="0"),
    sa.Column("outcome", sa.Text),
    sa.Column("ended_at", _time),
    sa.Column("last_reply", sa.Text, nullable=False, server_default=""),
    sa.ForeignKeyConstraint(
        ["tenant_id", "list_id", "subscription_id"],
        ["subscriptions.tenant_id", "subscriptions.list_id", "subscriptions.id"],
        ondelete="CASCADE",
    ),
    sa.Index("confirmation_mails_due", "tenant_id", "due_at", postgresql_where=sa.text("outcome IS NULL")),
    sa.Index(
        "confirmation_mails_waiting",
        "tenant_id",
        "list_id",
        "subscription_id",
        unique=True,
        postgresql_where=sa.text("outcome IS NULL"),
    ),
)
