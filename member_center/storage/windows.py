"""Counts in Valkey or Redis: calls in a window of time, and mails to an address.

One round trip for all that a call is counted in. Keys are hashes made by the caller: no address comes here. Everything
expires by itself, and losing it all only forgets what was counted. Raises redis.RedisError when the store does not
answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError
from redis.retry import Retry

_PREFIX = b"messmail:limit:"
_SECONDS_TO_ANSWER = 0.25
DAY_SECONDS = 86_400


class _Script:
    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


# All or nothing: a call that one window refuses is counted in none. A window begins with its first call.
_ADMIT = _Script("""
for i, key in ipairs(KEYS) do
    local limit, seconds = tonumber(ARGV[3 * i - 2]), tonumber(ARGV[3 * i - 1])
    if tonumber(redis.call('GET', key) or '0') >= limit then
        local left = redis.call('PTTL', key)
        return {i, left > 0 and left or seconds * 1000}
    end
end
for i, key in ipairs(KEYS) do
    if ARGV[3 * i] == '1' and redis.call('INCR', key) == 1 then
        redis.call('EXPIRE', key, ARGV[3 * i - 1])
    end
end
return {0, 0}
""")

# What has happened is counted, whatever is full; told is the first window that was full before.
_ADD = _Script("""
local full = {0, 0}
for i, key in ipairs(KEYS) do
    local count = redis.call('INCR', key)
    if count == 1 then
        redis.call('EXPIRE', key, ARGV[3 * i - 1])
    end
    if full[1] == 0 and count > tonumber(ARGV[3 * i - 2]) then
        full = {i, redis.call('PTTL', key)}
    end
end
return full
""")

# A mail that was counted before is counted once, so that a repeated lease costs nobody another mail.
_COUNT_MAILS = _Script("""
local now, limit, day = tonumber(redis.call('TIME')[1]), tonumber(ARGV[1]), tonumber(ARGV[2])
local allowed = {}
for i, key in ipairs(KEYS) do
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now - day)
    local mail = ARGV[2 + i]
    if redis.call('ZSCORE', key, mail) then
        allowed[i] = 1
    elseif redis.call('ZCARD', key) < limit then
        redis.call('ZADD', key, now, mail)
        redis.call('EXPIRE', key, day)
        allowed[i] = 1
    else
        allowed[i] = 0
    end
end
return allowed
""")


@dataclass(frozen=True, slots=True)
class Window:
    """A count that must stay within a limit for so many seconds. The name is that of the limit.

    One that is not counted is only looked at when a call is admitted.
    """

    name: str
    key: bytes
    limit: int
    seconds: int
    is_counted: bool = True


class Counters:
    """The store of the counts."""

    def __init__(self, url: str) -> None:
        # No retries: whoever is counted is waiting, and the limiter does without when this fails.
        self._store = redis.Redis.from_url(
            url,
            socket_timeout=_SECONDS_TO_ANSWER,
            socket_connect_timeout=_SECONDS_TO_ANSWER,
            retry=Retry(NoBackoff(), 0),
        )

    def admit(self, windows: Sequence[Window]) -> tuple[Window, float] | None:
        """Counts a call in all windows; or in none, and returns the full one and the seconds until it ends."""
        return self._count(_ADMIT, windows)

    def add(self, windows: Sequence[Window]) -> tuple[Window, float] | None:
        """Counts what has happened in all windows; returns one that was full before and the seconds until it ends."""
        return self._count(_ADD, windows)

    def count_mails(self, mails: Sequence[tuple[bytes, bytes]], limit: int) -> list[bool]:
        """Counts mails, each with the key of its address and its own id, and tells which are within a day's limit."""
        allowed = self._evaluate(
            _COUNT_MAILS,
            [_PREFIX + b"mail:" + key for key, _ in mails],
            [limit, DAY_SECONDS, *(mail for _, mail in mails)],
        )
        return [bool(answer) for answer in allowed]

    def is_answering(self) -> bool:
        """Tells whether the store answers."""
        try:
            return bool(self._store.ping())
        except redis.RedisError:
            return False

    def close(self) -> None:
        """Closes every connection."""
        self._store.close()

    def _count(self, script: _Script, windows: Sequence[Window]) -> tuple[Window, float] | None:
        full, milliseconds = self._evaluate(
            script,
            [_PREFIX + window.key for window in windows],
            [number for window in windows for number in (window.limit, window.seconds, int(window.is_counted))],
        )
        return (windows[full - 1], milliseconds / 1000) if full else None

    def _evaluate(self, script: _Script, keys: Sequence[bytes], arguments: Sequence[bytes | int]) -> Any:
        """Runs a script over a connection itself: what the client does around a command costs more than the command."""
        pool = self._store.connection_pool
        # redis-py does not type what a connection has.
        connection: Any = pool.get_connection()
        try:
            try:
                connection.send_command("EVALSHA", script.sha, len(keys), *keys, *arguments)
                return connection.read_response()
            except NoScriptError:
                connection.send_command("EVAL", script.text, len(keys), *keys, *arguments)
                return connection.read_response()
        except BaseException:
            # What an answer that came late would answer is anybody's guess.
            connection.disconnect()
            raise
        finally:
            pool.release(connection)
