"""A delivery's batch is looked up once for a statement, not once for a row (docs/decisions/0011)."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Replaces the foreign key of the deliveries by triggers that refuse the same."""
    op.execute(
        """
        CREATE FUNCTION check_batches_of_deliveries() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF EXISTS (
                SELECT FROM (SELECT DISTINCT tenant_id, batch_id FROM added) a WHERE NOT EXISTS (
                    SELECT FROM public.batches b WHERE b.tenant_id = a.tenant_id AND b.id = a.batch_id
                )
            ) THEN
                RAISE foreign_key_violation USING MESSAGE = 'a delivery must be of a batch of its tenant';
            END IF;
            RETURN NULL;
        END $$
        """
    )
    op.execute(
        """
        CREATE TRIGGER deliveries_are_of_batches AFTER INSERT ON deliveries REFERENCING NEW TABLE AS added
        FOR EACH STATEMENT EXECUTE FUNCTION check_batches_of_deliveries()
        """
    )
    # Before, because a row that moves to another partition is no update of a row any more afterwards.
    op.execute(
        """
        CREATE FUNCTION check_batch_of_delivery() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM FROM public.batches WHERE tenant_id = NEW.tenant_id AND id = NEW.batch_id;
            IF NOT FOUND THEN
                RAISE foreign_key_violation USING MESSAGE = 'a delivery must be of a batch of its tenant';
            END IF;
            RETURN NEW;
        END $$
        """
    )
    op.execute(
        """
        CREATE TRIGGER delivery_moves_to_batch BEFORE UPDATE OF tenant_id, batch_id ON deliveries
        FOR EACH ROW EXECUTE FUNCTION check_batch_of_delivery()
        """
    )
    op.execute("ALTER TABLE deliveries DROP CONSTRAINT deliveries_tenant_id_batch_id_fkey")
