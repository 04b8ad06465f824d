"""What became of each delivery of a job, page by page. No address is shown: the ledger has none."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from uuid import UUID

from send_engine import job_states
from send_engine.records import Delivery, DeliveryPlace, ShownState
from send_engine.storage import delivery_pages, send_jobs
from servicekit.database import Database
from servicekit.errors import invalid_field

_DEFAULT_PAGE_SIZE = 100


@dataclass(frozen=True, slots=True)
class DeliveryPage:
    """A page of deliveries; an empty token says that it is the last one."""

    deliveries: list[Delivery]
    next_page_token: str


class DeliveryPages:
    """The deliveries of all tenants' jobs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, tenant_id: UUID, job_id: UUID, state: ShownState | None, size: int, page_token: str) -> DeliveryPage:
        """Returns deliveries in a state, or in any; size 0 means 100.

        Raises SEND_JOB_NOT_FOUND, or INVALID_FIELD for a foreign token.
        """
        size = size or _DEFAULT_PAGE_SIZE
        after = _read_token(page_token) if page_token else None
        with self._database.tenant(tenant_id) as connection:
            if send_jobs.status(connection, tenant_id, job_id) is None:
                raise job_states.not_found()
            found = delivery_pages.read(connection, tenant_id, job_id, size + 1, after, state)
        more = len(found) > size
        return DeliveryPage(found[:size], _write_token(found[size - 1].place) if more else "")


def _write_token(place: DeliveryPlace) -> str:
    return base64.urlsafe_b64encode(place.batch_id.bytes + place.ordinal.to_bytes(4)).decode()


def _read_token(token: str) -> DeliveryPlace:
    try:
        raw = base64.b64decode(token, altchars=b"-_", validate=True)
        # The number must be one that PostgreSQL's integer holds.
        if len(raw) != 20 or raw[16] > 0x7F:
            raise ValueError
        return DeliveryPlace(UUID(bytes=raw[:16]), int.from_bytes(raw[16:]))
    except ValueError:
        raise invalid_field("page_token", "must be the next_page_token of a page before") from None
