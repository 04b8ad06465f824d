"""The doorbell: Dramatiq actors, one per lane, whose messages say nothing but "look".

The database is the truth, so a lost, late or doubled ring does no harm: rings are never retried or delayed and have no
result, and no time limit interrupts a send. Rings that fail are left to the sweeper.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue

import dramatiq
import redis
import structlog
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import Retries
from dramatiq.worker import Worker
from redis.backoff import NoBackoff
from redis.retry import Retry

from send_engine.records import Lane
from servicekit.failpoints import reached

# Without the broker's own maintenance, rings of a worker that died come back after some 12 minutes only.
_MAINTENANCE_ALWAYS = 1_000_000
_HEARTBEAT_MILLISECONDS = 20_000
_SOCKET_SECONDS = 1.0
# The Redis broker asks for rings, growing slower up to this while there are none.
_POLL_MILLISECONDS = 200
# So long a caller of ours waits for a ring; after a failed one the broker is left alone for a while.
_RING_SECONDS = 1.0
_SILENT_SECONDS = 5.0

_log = structlog.get_logger()


class Doorbell:
    """Rings for a lane, and answers rings when a worker listens."""

    def __init__(self, broker_url: str, answer: Callable[[Lane], None] | None = None) -> None:
        """Declares the actors; answer is called in a worker thread for each ring. Connects to nothing yet."""
        self.broker = _open_broker(broker_url)
        self._silent_until = 0.0
        self._actors = {lane: self._declare(lane, answer) for lane in Lane}
        self._wanted: SimpleQueue[tuple[Lane, Future[None]] | None] = SimpleQueue()
        threading.Thread(target=self._ring_for_others, name="ring", daemon=True).start()

    def ring(self, lane: Lane) -> bool:
        """Rings for a lane, and tells whether the broker took it, within a second. Never raises."""
        if time.monotonic() < self._silent_until:
            return False
        rung = Future[None]()
        self._wanted.put((lane, rung))
        try:
            rung.result(_RING_SECONDS)
        except Exception as error:
            rung.cancel()
            # Each broker, and each way in which one can be away, has exceptions of its own.
            self._silent_until = time.monotonic() + _SILENT_SECONDS
            _log.warning("ring.failed", lane=lane.value, error=type(error).__name__)
            return False
        return True

    def _ring_for_others(self) -> None:
        # A thread of its own: a client of a broker that hangs may wait for minutes, and nobody else shall.
        while wanted := self._wanted.get():
            lane, rung = wanted
            if rung.set_running_or_notify_cancel():
                try:
                    self._actors[lane].send()
                except Exception as error:
                    rung.set_exception(error)
                else:
                    rung.set_result(None)

    def listen(self, threads: int) -> Worker:
        """Starts the threads that answer rings."""
        worker = Worker(self.broker, worker_threads=threads, worker_timeout=_POLL_MILLISECONDS)
        # Rings fetched and not yet heard are rings that no other worker hears.
        worker.queue_prefetch = 1
        worker.start()
        return worker

    def close(self) -> None:
        """Closes the connections to the broker."""
        self._wanted.put(None)
        self.broker.close()
        if isinstance(self.broker, RedisBroker):
            self.broker.client.close()

    def _declare(self, lane: Lane, answer: Callable[[Lane], None] | None) -> dramatiq.Actor[[], None]:
        def run() -> None:
            if answer is not None:
                answer(lane)

        name = f"messmail-{lane.value}"
        return dramatiq.actor(actor_name=name, queue_name=name, max_retries=0, broker=self.broker)(run)


class _Acknowledgement(dramatiq.Middleware):
    """Marks the moment at which the broker has forgotten a ring."""

    def after_ack(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
        reached("acknowledged")


def _open_broker(url: str) -> dramatiq.Broker:
    middleware: list[dramatiq.Middleware] = [Retries(max_retries=0), _Acknowledgement()]
    if url.startswith(("amqp://", "amqps://")):
        from dramatiq.brokers.rabbitmq import RabbitmqBroker

        return RabbitmqBroker(url=url, middleware=middleware, confirm_delivery=True)
    client = redis.Redis.from_url(
        url,
        socket_timeout=_SOCKET_SECONDS,
        socket_connect_timeout=_SOCKET_SECONDS,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=10,
    )
    return RedisBroker(  # type: ignore[no-untyped-call]
        client=client,
        middleware=middleware,
        maintenance_chance=_MAINTENANCE_ALWAYS,
        heartbeat_timeout=_HEARTBEAT_MILLISECONDS,
    )
