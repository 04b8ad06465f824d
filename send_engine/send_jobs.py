"""Send jobs as callers see them: create, get, list, pause, resume, cancel, watch.

A job that was stored is sent, whatever happens to the ring that follows.
"""

from __future__ import annotations

import base64
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from uuid import UUID

from send_engine import idempotency, job_states
from send_engine.composing import (
    Content,
    ContentError,
    JobComposer,
    check_header_text,
    check_template,
)
from send_engine.idempotency import IdempotencyKey
from send_engine.recipients import Recipients
from send_engine.records import Cancellation, CountedJob, JobStatus, Lane, NewJob, UnknownPolicy
from send_engine.sending import message_id_domain
from send_engine.storage import Connection, batches, send_jobs
from servicekit.audit import AuditLog, Event
from servicekit.database import Database
from servicekit.errors import FieldViolation, MessmailError, Reason, invalid_field
from servicekit.failpoints import reached
from servicekit.identifiers import uuid7

WATCH_SECONDS = 0.5
# Each watcher holds a thread of the server.
MOST_WATCHERS = 8
_DEFAULT_PAGE_SIZE = 50


@dataclass(frozen=True, slots=True)
class Wish:
    """What a caller asks for. No scheduled_at: at once."""

    list_id: UUID
    name: str
    subject: str
    body_html: str
    body_text: str
    template: bool
    on_unknown: UnknownPolicy
    scheduled_at: datetime | None
    give_up_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class JobPage:
    """A page of jobs, newest first; an empty token says that it is the last one."""

    jobs: list[CountedJob]
    next_page_token: str


class SendJobs:
    """The send jobs of all tenants."""

    def __init__(
        self, database: Database, recipients: Recipients, ring: Callable[[Lane], object], audit: AuditLog
    ) -> None:
        self._database = database
        self._audit = audit
        self._recipients = recipients
        self._ring = ring
        self._watchers = threading.BoundedSemaphore(MOST_WATCHERS)

    def create(self, tenant_id: UUID, wish: Wish, key: IdempotencyKey | None = None) -> CountedJob:
        """Stores a job, its plan and the key, in one transaction, and rings. A key of before is answered as before.

        Raises INVALID_FIELD, TEMPLATE_INVALID, LIST_NOT_FOUND, UNAVAILABLE, IDEMPOTENCY_KEY_REUSED or
        IDEMPOTENCY_KEY_IN_USE; then nothing is stored.
        """
        of_request = idempotency.fingerprint(wish)
        if key is not None:
            with self._database.tenant(tenant_id) as connection:
                known = idempotency.recall(connection, tenant_id, key, of_request)
            if known is not None:
                return known
        content = _check(wish)
        profile = self._recipients.list_profile(tenant_id, wish.list_id)
        with _refusing_content(wish.template):
            JobComposer(profile, content, message_id_domain(profile))
        job = NewJob(
            list_id=wish.list_id,
            name=wish.name,
            subject=content.subject,
            body_html=content.body_html,
            body_text=content.body_text,
            template=wish.template,
            on_unknown=wish.on_unknown,
            give_up_seconds=wish.give_up_seconds,
            profile=asdict(profile),
            scheduled_at=wish.scheduled_at,
        )
        job_id = uuid.uuid4()
        with self._database.tenant(tenant_id) as connection:
            if key is not None:
                idempotency.take(connection, tenant_id, key)
                known = idempotency.recall(connection, tenant_id, key, of_request)
                if known is not None:
                    return known
            send_jobs.insert(connection, tenant_id, job_id, job)
            batches.insert_plan(connection, tenant_id, uuid7(), job_id)
            if key is not None:
                idempotency.keep(connection, tenant_id, key, of_request, job_id)
            created = self._find(connection, tenant_id, job_id)
        reached("enqueued")
        self._ring(Lane.PLAN)
        return created

    def get(self, tenant_id: UUID, job_id: UUID) -> CountedJob:
        """Returns a job with its counters. Raises SEND_JOB_NOT_FOUND."""
        with self._database.tenant(tenant_id) as connection:
            return self._find(connection, tenant_id, job_id)

    def page(self, tenant_id: UUID, size: int, page_token: str) -> JobPage:
        """Returns the tenant's jobs, newest first; size 0 means 50. Raises INVALID_FIELD for a foreign token."""
        size = size or _DEFAULT_PAGE_SIZE
        before = _read_token(page_token) if page_token else None
        with self._database.tenant(tenant_id) as connection:
            jobs = send_jobs.newest(connection, tenant_id, size + 1, before)
        more = len(jobs) > size
        return JobPage(jobs[:size], _write_token(jobs[size - 1]) if more else "")

    def pause(self, tenant_id: UUID, job_id: UUID) -> CountedJob:
        """Pauses a sending job: once this returns, no group of it is marked any more. Repeating it changes nothing.

        Raises SEND_JOB_NOT_FOUND or SEND_JOB_WRONG_STATE.
        """
        with self._database.tenant(tenant_id) as connection:
            status = send_jobs.lock(connection, tenant_id, job_id)
            if status is None:
                raise job_states.not_found()
            if status is not JobStatus.PAUSED and not job_states.pause(connection, tenant_id, job_id):
                raise job_states.wrong_state(status, "paused")
            return self._find(connection, tenant_id, job_id)

    def resume(self, tenant_id: UUID, job_id: UUID) -> CountedJob:
        """Lets a paused job go on, and rings. Repeating it changes nothing.

        Raises SEND_JOB_NOT_FOUND or SEND_JOB_WRONG_STATE.
        """
        with self._database.tenant(tenant_id) as connection:
            status = send_jobs.lock(connection, tenant_id, job_id)
            if status is None:
                raise job_states.not_found()
            if status is JobStatus.PAUSED:
                job_states.resume(connection, tenant_id, job_id)
            elif status is not JobStatus.SENDING:
                raise job_states.wrong_state(status, "resumed")
            resumed = self._find(connection, tenant_id, job_id)
        self._ring(Lane.BULK)
        return resumed

    def cancel(self, tenant_id: UUID, job_id: UUID) -> Cancellation:
        """Cancels a job: once this returns, no group of it is marked any more. Repeating it answers the same.

        Raises SEND_JOB_NOT_FOUND or SEND_JOB_FINISHED.
        """
        with self._database.tenant(tenant_id) as connection:
            status = send_jobs.lock(connection, tenant_id, job_id)
            if status is None:
                raise job_states.not_found()
            if status is JobStatus.CANCELLED:
                return send_jobs.find_cancellation(connection, tenant_id, job_id)
            if not job_states.may_become(status, JobStatus.CANCELLED):
                raise MessmailError(
                    Reason.ERROR_REASON_SEND_JOB_FINISHED,
                    f"the send job is {status.value} and can no longer be cancelled",
                    status=status.value,
                )
            found = self._find(connection, tenant_id, job_id)
            send_jobs.set_cancelled(connection, tenant_id, job_id, found.counters.sent, found.counters.sending)
            batches.close_unclaimed(connection, tenant_id, job_id)
            cancellation = send_jobs.find_cancellation(connection, tenant_id, job_id)
            event = Event.of_caller("send_job_cancelled", tenant_id=str(tenant_id), job_id=str(job_id))
            self._audit.append(connection, event)
        return cancellation

    def watch(self, tenant_id: UUID, job_id: UUID, is_watched: Callable[[], bool]) -> Iterator[CountedJob]:
        """Yields a job at once, whenever it has changed, and last when it has ended.

        Raises SEND_JOB_NOT_FOUND, or RATE_LIMITED when MOST_WATCHERS watch already.
        """
        if not self._watchers.acquire(blocking=False):
            raise MessmailError(
                Reason.ERROR_REASON_RATE_LIMITED,
                "too many are watching send jobs: poll, or try again",
                retry_after=5.0,
                limit="watchers",
            )
        try:
            shown = None
            while is_watched():
                job = self.get(tenant_id, job_id)
                if job != shown:
                    yield job
                    shown = job
                if job.job.status in job_states.ENDED:
                    return
                time.sleep(WATCH_SECONDS)
        finally:
            self._watchers.release()

    @staticmethod
    def _find(connection: Connection, tenant_id: UUID, job_id: UUID) -> CountedJob:
        found = send_jobs.find(connection, tenant_id, job_id)
        if found is None:
            raise job_states.not_found()
        return found


def _check(wish: Wish) -> Content:
    """Raises INVALID_FIELD or TEMPLATE_INVALID for what no mail can be made of."""
    content = Content(wish.subject, wish.body_html or None, wish.body_text or None, wish.template)
    with _refusing_content(is_template=False):
        check_header_text("name", wish.name)
        check_header_text("subject", wish.subject)
    for name, body in (("body_html", wish.body_html), ("body_text", wish.body_text)):
        if "\0" in body:
            raise invalid_field(name, "must not contain a NUL character")
    if wish.template:
        with _refusing_content(is_template=True):
            check_template(content)
    return content


@contextmanager
def _refusing_content(is_template: bool) -> Iterator[None]:
    try:
        yield
    except ContentError as error:
        if not is_template:
            raise invalid_field(error.field, error.message) from None
        raise MessmailError(
            Reason.ERROR_REASON_TEMPLATE_INVALID,
            str(error),
            violations=[FieldViolation(error.field, error.message)],
            field=error.field,
            line="" if error.line is None else str(error.line),
        ) from None


def _write_token(last: CountedJob) -> str:
    text = f"{last.job.created_at.isoformat()} {last.job.id}"
    return base64.urlsafe_b64encode(text.encode()).decode()


def _read_token(token: str) -> tuple[datetime, UUID]:
    try:
        created_at, _, job_id = base64.b64decode(token, altchars=b"-_", validate=True).decode().partition(" ")
        moment = datetime.fromisoformat(created_at)
        if moment.tzinfo is None:
            raise ValueError
        return moment, UUID(job_id)
    except ValueError:
        raise invalid_field("page_token", "must be the next_page_token of a page before") from None
