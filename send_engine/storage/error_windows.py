"""Statements on error windows: how many mails of a job were tried and refused since the window began."""

from __future__ import annotations

from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from send_engine.records import ErrorWindow

_ADD = sa.text(
    """
    INSERT INTO error_windows AS w (tenant_id, job_id, began_at, results, failures)
    VALUES (:tenant, :job, messmail_now(), :results, :failures)
    ON CONFLICT (tenant_id, job_id) DO UPDATE SET
        began_at = CASE WHEN w.began_at + make_interval(secs => :length) > excluded.began_at
            THEN w.began_at ELSE excluded.began_at END,
        results = excluded.results + CASE WHEN w.began_at + make_interval(secs => :length) > excluded.began_at
            THEN w.results ELSE 0 END,
        failures = excluded.failures + CASE WHEN w.began_at + make_interval(secs => :length) > excluded.began_at
            THEN w.failures ELSE 0 END
    RETURNING results, failures
    """
)


def add(
    connection: Connection, tenant_id: UUID, job_id: UUID, results: int, failures: int, length: float
) -> ErrorWindow:
    """Counts results into the job's window, or into a new one when that is length seconds old, and returns it."""
    row = connection.execute(
        _ADD, {"tenant": tenant_id, "job": job_id, "results": results, "failures": failures, "length": length}
    ).one()
    return ErrorWindow(row.results, row.failures)


def remove(connection: Connection, tenant_id: UUID, job_id: UUID) -> None:
    """Ends the job's window; the next result begins a new one."""
    connection.execute(
        sa.text("DELETE FROM error_windows WHERE tenant_id = :tenant AND job_id = :job"),
        {"tenant": tenant_id, "job": job_id},
    )
