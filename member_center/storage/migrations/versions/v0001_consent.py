"""Tenants, lists, clients, keys, limits, subscriptions, their consent log and the outbox of confirmation mails."""

from alembic import op

from servicekit.migrations import app_role, create_clock, fence_tenants, open_to_dispatch

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Creates everything."""
    create_clock()
    _create_tenants()
    _create_lists()
    _create_clients()
    _create_keys()
    _create_limits()
    _create_subscriptions()
    _create_outbox()


def _create_tenants() -> None:
    op.execute(
        """
        CREATE TABLE tenants (
            tenant_id uuid PRIMARY KEY,
            name text NOT NULL,
            created_at timestamptz NOT NULL DEFAULT messmail_now()
        )
        """
    )
    # The installation's own: internal clients, keys and limits belong to it. Nobody subscribes to anything of its.
    op.execute("INSERT INTO tenants (tenant_id, name) VALUES ('00000000-0000-0000-0000-000000000000', 'operator')")
    fence_tenants("tenants", "SELECT, INSERT")
    open_to_dispatch("tenants", "SELECT")


def _create_lists() -> None:
    op.execute(
        """
        CREATE TABLE lists (
            tenant_id uuid NOT NULL REFERENCES tenants (tenant_id),
            id uuid NOT NULL,
            name text NOT NULL,
            from_name text NOT NULL,
            from_address text NOT NULL,
            reply_to text NOT NULL,
            envelope_sender text NOT NULL,
            language text NOT NULL,
            subscribes_per_address_per_hour integer,
            subscribes_per_list_per_minute integer,
            created_at timestamptz NOT NULL DEFAULT messmail_now(),
            PRIMARY KEY (tenant_id, id)
        )
        """
    )
    fence_tenants("lists", "SELECT, INSERT, UPDATE (subscribes_per_address_per_hour, subscribes_per_list_per_minute)")
    _create_directory("list_directory", "lists", "tenant_of_list")


def _create_clients() -> None:
    op.execute(
        """
        CREATE TABLE clients (
            tenant_id uuid NOT NULL REFERENCES tenants (tenant_id),
            id uuid NOT NULL,
            name text NOT NULL,
            usage text NOT NULL CHECK (usage IN ('tenant_api', 'webhook_outbound', 'internal')),
            scopes text[] NOT NULL,
            secret_hash bytea NOT NULL,
            previous_secret_hash bytea,
            created_at timestamptz NOT NULL DEFAULT messmail_now(),
            disabled_at timestamptz,
            PRIMARY KEY (tenant_id, id),
            CHECK ((usage = 'internal') = (tenant_id = '00000000-0000-0000-0000-000000000000'))
        )
        """
    )
    fence_tenants("clients", "SELECT, INSERT, UPDATE (secret_hash, previous_secret_hash, disabled_at)")
    _create_directory("client_directory", "clients", "tenant_of_client")


def _create_directory(directory: str, table: str, lookup: str) -> None:
    """Creates what tells the tenant of an id, and nothing else: it cannot be read but by point look-up."""
    op.execute(f"CREATE TABLE {directory} (id uuid PRIMARY KEY, tenant_id uuid NOT NULL)")
    op.execute(
        f"""
        CREATE FUNCTION enter_{directory}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
        SET search_path = pg_catalog, pg_temp
        AS 'BEGIN INSERT INTO public.{directory} VALUES (NEW.id, NEW.tenant_id); RETURN NULL; END'
        """
    )
    op.execute(
        f"CREATE TRIGGER enter_directory AFTER INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION enter_{directory}()"
    )
    op.execute(
        f"""
        CREATE FUNCTION {lookup}(wanted uuid) RETURNS uuid LANGUAGE sql STABLE SECURITY DEFINER
        SET search_path = pg_catalog, pg_temp
        AS 'SELECT tenant_id FROM public.{directory} WHERE id = wanted'
        """
    )
    op.execute(f"REVOKE EXECUTE ON FUNCTION enter_{directory}(), {lookup}(uuid) FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION {lookup}(uuid) TO {app_role()}")


def _create_keys() -> None:
    op.execute(
        """
        CREATE TABLE signing_keys (
            tenant_id uuid NOT NULL REFERENCES tenants (tenant_id),
            kid text NOT NULL,
            encrypted_key bytea NOT NULL,
            created_at timestamptz NOT NULL DEFAULT messmail_now(),
            PRIMARY KEY (tenant_id, kid)
        )
        """
    )
    fence_tenants("signing_keys", "SELECT, INSERT, DELETE")
    op.execute(
        """
        CREATE TABLE link_keys (
            tenant_id uuid NOT NULL REFERENCES tenants (tenant_id),
            key_id bytea NOT NULL CHECK (length(key_id) = 4),
            purpose text NOT NULL,
            encrypted_key bytea NOT NULL,
            created_at timestamptz NOT NULL DEFAULT messmail_now(),
            PRIMARY KEY (tenant_id, key_id)
        )
        """
    )
    fence_tenants("link_keys", "SELECT, INSERT")


def _create_limits() -> None:
    op.execute(
        """
        CREATE TABLE limits (
            tenant_id uuid PRIMARY KEY REFERENCES tenants (tenant_id),
            subscribes_per_address_per_hour integer,
            subscribes_per_list_per_minute integer,
            confirmation_mails_per_address_per_day integer,
            anonymous_calls_per_ip_per_minute integer,
            calls_per_client_per_minute integer
        )
        """
    )
    fence_tenants("limits", "SELECT, INSERT, UPDATE")


def _create_subscriptions() -> None:
    op.execute(
        """
        CREATE TABLE subscriptions (
            tenant_id uuid NOT NULL,
            list_id uuid NOT NULL,
            id uuid NOT NULL,
            address_key text NOT NULL,
            address text NOT NULL,
            standing text NOT NULL
                CHECK (standing IN ('unconfirmed', 'confirmed', 'unsubscribed', 'bounced', 'complained')),
            generation integer NOT NULL,
            preferences jsonb NOT NULL,
            confirmed_at timestamptz,
            pending_since timestamptz,
            pending_expires_at timestamptz,
            pending_preferences jsonb,
            PRIMARY KEY (tenant_id, list_id, id),
            FOREIGN KEY (tenant_id, list_id) REFERENCES lists (tenant_id, id),
            CHECK (standing <> 'confirmed' OR confirmed_at IS NOT NULL AND pending_since IS NULL),
            CHECK (num_nulls(pending_since, pending_expires_at) IN (0, 2)),
            CHECK (pending_since IS NOT NULL OR pending_preferences IS NULL)
        )
        """
    )
    # The list comes last, so that nothing but the primary key begins like the primary key: as long as a table has no
    # statistics, the planner would choose between the two at random.
    op.execute("CREATE UNIQUE INDEX subscriptions_address ON subscriptions (tenant_id, address_key, list_id)")
    fence_tenants("subscriptions", "SELECT, INSERT, UPDATE")
    _open_to_upkeep(
        "subscriptions", "standing = 'unconfirmed' AND pending_expires_at < messmail_now() - interval '30 days'"
    )
    op.execute(
        """
        CREATE TABLE consent_log (
            tenant_id uuid NOT NULL,
            list_id uuid NOT NULL,
            subscription_id uuid NOT NULL,
            generation integer NOT NULL,
            status text NOT NULL,
            through text NOT NULL,
            at timestamptz NOT NULL,
            client_id uuid,
            ip text NOT NULL,
            user_agent text NOT NULL,
            source_url text NOT NULL,
            evidence text NOT NULL,
            text_version text NOT NULL,
            PRIMARY KEY (tenant_id, list_id, subscription_id, generation),
            FOREIGN KEY (tenant_id, list_id, subscription_id) REFERENCES subscriptions (tenant_id, list_id, id)
                ON DELETE CASCADE
        )
        """
    )
    # Append-only: a line goes only with its person.
    fence_tenants("consent_log", "SELECT, INSERT")


def _create_outbox() -> None:
    op.execute(
        """
        CREATE TABLE confirmation_mails (
            tenant_id uuid NOT NULL,
            id uuid NOT NULL,
            list_id uuid NOT NULL,
            subscription_id uuid NOT NULL,
            created_at timestamptz NOT NULL,
            due_at timestamptz NOT NULL,
            fence bigint NOT NULL DEFAULT 0,
            deferrals smallint NOT NULL DEFAULT 0,
            outcome text CHECK (outcome IN ('sent', 'failed', 'skipped', 'capped')),
            ended_at timestamptz,
            last_reply text NOT NULL DEFAULT '',
            PRIMARY KEY (tenant_id, id),
            FOREIGN KEY (tenant_id, list_id, subscription_id) REFERENCES subscriptions (tenant_id, list_id, id)
                ON DELETE CASCADE,
            CHECK ((outcome IS NULL) = (ended_at IS NULL))
        )
        """
    )
    op.execute("CREATE INDEX confirmation_mails_due ON confirmation_mails (tenant_id, due_at) WHERE outcome IS NULL")
    # At most one mail waits for each subscription, however often somebody asks.
    op.execute(
        "CREATE UNIQUE INDEX confirmation_mails_waiting ON confirmation_mails (tenant_id, list_id, subscription_id) "
        "WHERE outcome IS NULL"
    )
    fence_tenants("confirmation_mails", "SELECT, INSERT, UPDATE")
    _open_to_upkeep("confirmation_mails", "ended_at < messmail_now() - interval '30 days'")
    open_to_dispatch("confirmation_mails", "SELECT (tenant_id, id, due_at, fence, outcome), UPDATE (due_at, fence)")


def _open_to_upkeep(table: str, rows: str) -> None:
    """Lets the owner see those rows of a fenced table that may go, of every tenant."""
    op.execute(f"CREATE POLICY upkeep ON {table} TO CURRENT_USER USING ({rows})")
