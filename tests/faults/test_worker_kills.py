"""kill -9 of workers in the middle of a job: nobody is left out, and only who was in flight may get a mail twice."""

import os
import random
import signal

import pytest

from tests.recount import Ledger, add_up, recording_sink
from tests.stack import Stack, new_data_dir, wait_until

RECIPIENTS = 20_000
KILLS = 10
LEASE_SECONDS = "3"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_kills_of_a_worker_lose_nobody_and_double_only_what_was_in_flight(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    seed = int(os.environ.get("MESSMAIL_SEED", str(random.SystemRandom().randrange(2**32))))
    print(f"seed {seed} (MESSMAIL_SEED repeats it)")
    chance = random.Random(seed)
    with recording_sink(tmp_path_factory.mktemp("sink"), delay_ms=4) as sink:
        stack = Stack(new_data_dir(), "--smtp-url", f"smtp://{sink.address}", SEND_ENGINE_LEASE_SECONDS=LEASE_SECONDS)
        try:
            stack.start()
            newsletter = stack.make_newsletter()
            audience = [f"reader{number}@mail.example" for number in range(RECIPIENTS)]
            stack.import_members(newsletter, audience)
            token = stack.access_token(newsletter.client)
            job = stack.site.post_json(
                "/api/send-jobs", {"list_id": newsletter.list_id, "subject": "Kill me", "body_text": "Hello"}, token
            ).answer["id"]
            ledger = Ledger(stack)
            in_flight: list[set[object]] = []

            def counters() -> dict[str, int]:
                found: dict[str, int] = stack.site.get(f"/api/send-jobs/{job}", token).answer["counters"]
                assert add_up(found), found
                return found

            for kill in range(KILLS):
                # Spread over the whole job: each kill waits until its share has been sent.
                share = int(RECIPIENTS * (kill + chance.random()) / (KILLS + 1))
                wait_until(lambda share=share: counters()["sent"] >= share, f"{share} mails sent", 120, 0.02)  # type: ignore[misc]
                victims = [pid for pid in stack.pids("worker") if alive(pid)]
                victim = chance.choice(victims)
                os.kill(victim, signal.SIGKILL)
                in_flight.append(set(ledger.marked(job)))
                assert counters()["sent"] < RECIPIENTS, "the kill came after the job: slow the sink further"
            done = stack.wait_for_job(job, token, seconds=180)
            assert done["counters"]["sent"] == done["counters"]["total"] == RECIPIENTS

            received = sink.recipients()
            subscriptions = ledger.address_of(newsletter.list_id)
            twice = {address for address, count in received.items() if count > 1}
            bound = sum(map(len, in_flight))
            print(
                f"{KILLS} kills: 0 lost, {sum(received.values()) - RECIPIENTS} doubled, at most {bound} were in flight"
            )
            assert set(received) == set(audience)
            assert {subscriptions[address] for address in twice} <= set().union(*in_flight)
            assert sum(received.values()) - RECIPIENTS <= bound
        finally:
            stack.remove()


def alive(pid: int) -> bool:
    """Tells whether a process runs; one that was killed a moment ago may be listed still."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
        return stat.read().rpartition(")")[2].split()[0] != "Z"
