"""Idempotency keys: a request that carries the key of one that succeeded is answered as that one was, and not repeated.

Only successes are remembered, so whoever was refused may try again with the same key. A key belongs to one client of
one tenant. The answer is not stored: what a new job looks like is known from the job.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace
from typing import Any
from uuid import UUID

import orjson

from send_engine.records import CountedJob, Counters, JobStatus
from send_engine.storage import Connection, idempotency_keys, send_jobs
from servicekit.errors import MessmailError, Reason

_TRY_AGAIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A key as a client chose it."""

    client_id: UUID
    text: str

    @property
    def hash(self) -> bytes:
        """What is stored of it: keys can be long, and may say something."""
        return hashlib.sha256(self.text.encode()).digest()


def fingerprint(request: Any) -> bytes:
    """Hashes a parsed request, a dataclass of plain values. What is left out counts as if it did not exist."""
    said = {field.name: getattr(request, field.name) for field in fields(request)}
    return hashlib.sha256(
        orjson.dumps({name: value for name, value in said.items() if value is not None}, option=orjson.OPT_SORT_KEYS)
    ).digest()


def recall(connection: Connection, tenant_id: UUID, key: IdempotencyKey, of_request: bytes) -> CountedJob | None:
    """Returns the job that was made with this key, as it was when it was made; None when the key is new.

    Raises IDEMPOTENCY_KEY_REUSED when it came with another request.
    """
    known = idempotency_keys.find(connection, tenant_id, key.client_id, key.hash)
    if known is None:
        return None
    job_id, its_fingerprint = known
    if its_fingerprint != of_request:
        raise MessmailError(
            Reason.ERROR_REASON_IDEMPOTENCY_KEY_REUSED,
            "this idempotency key came with another request: send that one again, or choose a new key",
        )
    found = send_jobs.find(connection, tenant_id, job_id)
    assert found is not None, "a key's job cannot be removed before the key"
    job = replace(found.job, status=JobStatus.SCHEDULED, status_reason="", started_at=None, ended_at=None, round=1)
    return CountedJob(job, Counters())


def take(connection: Connection, tenant_id: UUID, key: IdempotencyKey) -> None:
    """Keeps every other request with this key off until the transaction ends. Raises IDEMPOTENCY_KEY_IN_USE."""
    name = hashlib.sha256(tenant_id.bytes + key.client_id.bytes + key.hash).digest()
    if not idempotency_keys.try_lock(connection, int.from_bytes(name[:8], signed=True)):
        raise MessmailError(
            Reason.ERROR_REASON_IDEMPOTENCY_KEY_IN_USE,
            "a request with this idempotency key is under way: try again",
            retry_after=_TRY_AGAIN_SECONDS,
        )


def keep(connection: Connection, tenant_id: UUID, key: IdempotencyKey, of_request: bytes, job_id: UUID) -> None:
    """Remembers that this request made a job."""
    idempotency_keys.insert(connection, tenant_id, key.client_id, key.hash, of_request, job_id)
