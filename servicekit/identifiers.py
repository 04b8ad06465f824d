"""Makes UUIDs of version 7 (RFC 9562 5.7) for rows that never leave a service: they sort by the time they were made.

Ids that leave the system (tenant, list, client, job, subscription) are uuid.uuid4, which tells nothing.
"""

from __future__ import annotations

import os
import time
from datetime import datetime
from uuid import UUID

_VERSION = 0x7 << 76
_VARIANT = 0b10 << 62


def uuid7() -> UUID:
    """Returns a new id; ids made within one millisecond come in any order."""
    random = int.from_bytes(os.urandom(10), "big")
    return _with_time(time.time_ns() // 1_000_000, random)


def least_uuid7(moment: datetime) -> UUID:
    """Returns the least id that can be made at this moment: the bound of a range of ids by time."""
    return _with_time(round(moment.timestamp() * 1000), 0)


def _with_time(milliseconds: int, random: int) -> UUID:
    high = (random >> 62) & 0xFFF
    low = random & 0x3FFF_FFFF_FFFF_FFFF
    return UUID(int=(milliseconds & 0xFFFF_FFFF_FFFF) << 80 | _VERSION | high << 64 | _VARIANT | low)
