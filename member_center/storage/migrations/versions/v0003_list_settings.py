"""What a list asks of those who call for it, whose pages may call at all, and how often a login may fail."""

from alembic import op

from servicekit.migrations import app_role

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Adds the settings, with the published contract as their defaults."""
    op.execute(
        """
        ALTER TABLE lists
            ADD COLUMN require_token boolean NOT NULL DEFAULT false,
            ADD COLUMN return_confirm_token boolean NOT NULL DEFAULT true,
            ADD COLUMN allowed_origins text[] NOT NULL DEFAULT '{}',
            ADD COLUMN honeypot_field text NOT NULL DEFAULT ''
        """
    )
    op.execute(
        f"GRANT UPDATE (require_token, return_confirm_token, allowed_origins, honeypot_field) ON lists TO {app_role()}"
    )
    _create_origin_directory()
    op.execute(
        """
        ALTER TABLE limits
            ADD COLUMN failed_logins_per_client_and_ip_per_minute integer,
            ADD COLUMN failed_logins_per_ip_per_minute integer
        """
    )


def _create_origin_directory() -> None:
    """Creates what tells whether any list allows an origin, and nothing else: not which list, and not whose."""
    op.execute("CREATE TABLE origin_directory (origin text, list_id uuid, PRIMARY KEY (origin, list_id))")
    op.execute("CREATE INDEX origin_directory_list ON origin_directory (list_id)")
    op.execute(
        """
        CREATE FUNCTION enter_origin_directory() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
        SET search_path = pg_catalog, pg_temp
        AS 'BEGIN
            DELETE FROM public.origin_directory WHERE list_id = NEW.id;
            INSERT INTO public.origin_directory SELECT DISTINCT unnest(NEW.allowed_origins), NEW.id;
            RETURN NULL;
        END'
        """
    )
    op.execute(
        "CREATE TRIGGER enter_origins AFTER INSERT OR UPDATE OF allowed_origins ON lists "
        "FOR EACH ROW EXECUTE FUNCTION enter_origin_directory()"
    )
    op.execute(
        """
        CREATE FUNCTION is_allowed_origin(wanted text) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER
        SET search_path = pg_catalog, pg_temp
        AS 'SELECT EXISTS (SELECT FROM public.origin_directory WHERE origin = wanted)'
        """
    )
    op.execute("REVOKE EXECUTE ON FUNCTION enter_origin_directory(), is_allowed_origin(text) FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION is_allowed_origin(text) TO {app_role()}")
