"""Tenants that this process passes by when it claims, because it cannot get their mail out just now.

What one process cannot do another may be able to, so this is said to nobody else. That a tenant has no permits, which
holds for every process, is written down in the database instead: see `pacing`.
"""

from __future__ import annotations

import threading
import time
from uuid import UUID


class PassedBy:
    """The tenants that one worker process passes by. Safe for threads."""

    def __init__(self) -> None:
        self._until: dict[UUID, float] = {}
        self._lock = threading.Lock()

    def add(self, tenant_id: UUID, seconds: float) -> None:
        """Passes a tenant by for so long."""
        with self._lock:
            self._until[tenant_id] = time.monotonic() + seconds

    def tenants(self) -> set[UUID]:
        """Returns who is passed by now."""
        now = time.monotonic()
        with self._lock:
            self._until = {tenant_id: until for tenant_id, until in self._until.items() if until > now}
            return set(self._until)
