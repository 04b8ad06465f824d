"""Stores the limits of the whole installation, which belong to the operator."""

from __future__ import annotations

from dataclasses import asdict

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection

from member_center.records.installation import OPERATOR, Limits
from member_center.storage.tables import limits


def read_limits(connection: Connection) -> Limits:
    """Reads the limits; None where nothing was set."""
    row = connection.execute(sa.select(limits).where(limits.c.tenant_id == OPERATOR)).first()
    if row is None:
        return Limits()
    fields = row._asdict()
    del fields["tenant_id"]
    return Limits(**fields)


def set_limits(connection: Connection, wanted: Limits) -> None:
    """Sets those limits that are not None."""
    values = {name: value for name, value in asdict(wanted).items() if value is not None}
    row = insert(limits).values(tenant_id=OPERATOR, **values)
    connection.execute(
        row.on_conflict_do_update(index_elements=["tenant_id"], set_=values)
        if values
        else row.on_conflict_do_nothing(index_elements=["tenant_id"])
    )
