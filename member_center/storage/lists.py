"""Stores lists, and finds the tenant of one, or whether any allows an origin, through a directory."""

from __future__ import annotations

from dataclasses import asdict, fields
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from member_center.records.installation import (
    OPERATOR,
    Limits,
    ListProfile,
    ListSettings,
    NewsletterList,
    SettingChanges,
)
from member_center.storage.tables import lists

_PROFILE = tuple(field.name for field in fields(ListProfile))
_SETTINGS = tuple(field.name for field in fields(ListSettings))
_LIMITS = ("subscribes_per_address_per_hour", "subscribes_per_list_per_minute")

_ENTER_TENANT = sa.text(
    "SELECT set_config('app.tenant', coalesce(tenant_of_list(:list_id), CAST(:otherwise AS uuid))::text, true)"
)
_IS_ALLOWED_ORIGIN = sa.text("SELECT is_allowed_origin(:origin)")


def add_list(
    connection: Connection, tenant_id: UUID, list_id: UUID, profile: ListProfile, settings: SettingChanges
) -> None:
    """Adds a list without limits of its own."""
    connection.execute(sa.insert(lists).values(tenant_id=tenant_id, id=list_id, **asdict(profile), **_given(settings)))


def is_allowed_origin(connection: Connection, origin: str) -> bool:
    """Tells whether any list of whatever tenant allows an origin."""
    return bool(connection.execute(_IS_ALLOWED_ORIGIN, {"origin": origin}).scalar_one())


def enter_tenant_of(connection: Connection, list_id: UUID) -> UUID:
    """Lets a directory transaction see the tenant of a list, and returns it: the operator for an unknown list."""
    return UUID(connection.execute(_ENTER_TENANT, {"list_id": list_id, "otherwise": OPERATOR}).scalar_one())


def read_list(connection: Connection, tenant_id: UUID, list_id: UUID) -> NewsletterList | None:
    """Reads a list of the transaction's tenant."""
    row = connection.execute(sa.select(lists).where(_is(tenant_id, list_id))).first()
    return _from_row(row) if row else None


def read_lists(
    connection: Connection, tenant_id: UUID, after: tuple[datetime, UUID] | None, limit: int
) -> list[NewsletterList]:
    """Reads lists of the transaction's tenant, oldest first. after is time and id of the last one read."""
    query = sa.select(lists).where(lists.c.tenant_id == tenant_id).order_by(lists.c.created_at, lists.c.id).limit(limit)
    if after is not None:
        query = query.where(sa.tuple_(lists.c.created_at, lists.c.id) > sa.tuple_(*after))
    return [_from_row(row) for row in connection.execute(query)]


def set_list_limits(connection: Connection, tenant_id: UUID, list_id: UUID, limits: Limits) -> NewsletterList | None:
    """Sets those limits of a list that are not None, and returns the list; None when there is no such list."""
    values = {name: getattr(limits, name) for name in _LIMITS if getattr(limits, name) is not None}
    if values:
        connection.execute(sa.update(lists).where(_is(tenant_id, list_id)).values(values))
    return read_list(connection, tenant_id, list_id)


def change_settings(
    connection: Connection, tenant_id: UUID, list_id: UUID, settings: SettingChanges
) -> NewsletterList | None:
    """Changes those settings of a list that are not None, and returns the list; None when there is no such list."""
    values = _given(settings)
    if values:
        connection.execute(sa.update(lists).where(_is(tenant_id, list_id)).values(values))
    return read_list(connection, tenant_id, list_id)


def _given(settings: SettingChanges) -> dict[str, Any]:
    values = {name: value for name, value in asdict(settings).items() if value is not None}
    if "allowed_origins" in values:
        values["allowed_origins"] = list(values["allowed_origins"])
    return values


def _is(tenant_id: UUID, list_id: UUID) -> sa.ColumnElement[bool]:
    return sa.and_(lists.c.tenant_id == tenant_id, lists.c.id == list_id)


def _from_row(row: sa.Row[Any]) -> NewsletterList:
    columns = row._asdict()
    return NewsletterList(
        tenant_id=row.tenant_id,
        id=row.id,
        profile=ListProfile(**{name: columns[name] for name in _PROFILE}),
        created_at=row.created_at,
        limits=Limits(**{name: columns[name] for name in _LIMITS}),
        settings=ListSettings(
            **{name: columns[name] for name in _SETTINGS} | {"allowed_origins": tuple(row.allowed_origins)}
        ),
    )
