"""D2: a process that dies exactly at a boundary loses nobody, and doubles a mail only where its fate is unknown.

The boundaries are those that servicekit/failpoints.py is asked about in Send Engine.
"""

import random
import signal

import grpc
import pytest

from local_stack.ports import free_address
from messmail.send_engine.v1 import send_engine_pb2 as pb
from messmail.send_engine.v1 import send_engine_pb2_grpc
from tests.faults.faults_table import FaultRow, hand_in, runs
from tests.rig.proving_ground import ProvingGround, Recount, WatchedJob
from tests.rig.workers import Crew, WorkerProcess

RUNS, SHORT = 25, 1
DEATH_SECONDS = 90.0
BEFORE_THE_DOT = ("claimed", "marked", "connected", "MAIL", "RCPT", "DATA")
BEHIND_THE_RECORD = ("recorded", "acknowledged", "closed")
# A worker claims the plan first, and its ring is acknowledged first: it is the sending that is to be hurt.
PASSINGS = {"claimed": 2, "acknowledged": 2}
# Behind these a mail is out and its answer is not on record.
AFTER_THE_DOT = ("dot written", "final dot")
PEOPLE_PER_DEATH = 400
PEOPLE_OF_A_SMALL_JOB = 60
# A worker dies at up to so many mails behind the boundary, early or late in its groups.
MOST_PASSINGS = 60

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("on_unknown", ["resend", "hold"])
@pytest.mark.parametrize("boundary", AFTER_THE_DOT)
def test_a_worker_that_dies_after_a_final_dot_doubles_only_what_was_in_flight(
    ground: ProvingGround, chance: random.Random, record_property: object, boundary: str, on_unknown: str
) -> None:
    deaths = runs(RUNS, SHORT)
    people = PEOPLE_PER_DEATH * (deaths + 1)
    ground.sink.slow_down(0.02)
    with ground.crew() as crew, ground.job(people, on_unknown=on_unknown) as job:
        for _ in range(deaths):
            victim = crew.start(MESSMAIL_FAILPOINT=f"{boundary}:{chance.randint(1, MOST_PASSINGS)}")
            assert victim.wait_end(DEATH_SECONDS) == -signal.SIGKILL
            job.fault(victim)
        ground.sink.script()
        crew.start()
        job.wait_completed()
        counted = job.recount()
    hand_in(record_property, row(boundary, on_unknown, deaths, [(job, counted)]), counted)
    assert counted.lost == []
    assert set(counted.doubled) <= job.in_flight
    if on_unknown == "hold":
        assert counted.duplicates == 0
        assert counted.states["unknown"] == job.bound
    else:
        assert 0 < counted.duplicates <= job.bound, "a test that doubles nobody here does not reach the boundary"
        assert counted.states == {"sent": people}


@pytest.mark.parametrize("boundary", [*BEFORE_THE_DOT, *BEHIND_THE_RECORD])
def test_a_worker_that_dies_before_a_final_dot_or_behind_the_record_doubles_nobody(
    ground: ProvingGround, record_property: object, boundary: str
) -> None:
    deaths = runs(RUNS, SHORT)
    counted: list[tuple[WatchedJob, Recount]] = []
    with ground.crew(workers=1) as crew:
        (heir,) = crew.running()
        while len(counted) < deaths:
            heir.send(signal.SIGSTOP)
            with ground.job(PEOPLE_OF_A_SMALL_JOB) as job:
                # Over one connection, so that no other is behind a boundary of its own.
                failpoint = f"{boundary}:{PASSINGS.get(boundary, 1)}"
                victim = crew.start(MESSMAIL_FAILPOINT=failpoint, SEND_ENGINE_SMTP_CONNECTIONS="1")
                assert victim.wait_end(DEATH_SECONDS) == -signal.SIGKILL
                died_over_plan = status_of(ground, job.id) == "planning"
                # A ring of an earlier job may have been left over, and acknowledged before that of this plan.
                assert boundary == "acknowledged" or not died_over_plan
                job.fault(victim)
                heir.send(signal.SIGCONT)
                job.wait_completed()
                if not died_over_plan:
                    counted.append((job, job.recount()))
    hand_in(record_property, row(boundary, "resend", deaths, counted), *(count for _, count in counted))
    for _, count in counted:
        assert (count.lost, count.duplicates, count.states) == ([], 0, {"sent": PEOPLE_OF_A_SMALL_JOB})


def test_a_send_engine_that_dies_after_it_stored_a_job_has_stored_all_of_it(
    ground: ProvingGround, record_property: object
) -> None:
    deaths = runs(RUNS, SHORT)
    newsletter, audience = ground.audience(PEOPLE_OF_A_SMALL_JOB)
    counted: list[tuple[WatchedJob, Recount]] = []
    with ground.crew(workers=1) as crew:
        for _ in range(deaths):
            before = jobs_of(ground, newsletter.list_id)
            create_and_lose_the_answer(ground, crew, newsletter.list_id, ground.stack.access_token(newsletter.client))
            (job_id,) = jobs_of(ground, newsletter.list_id) - before
            with ground.watched(newsletter, audience, job_id) as job:
                job.wait_completed()
                counted.append((job, job.recount()))
    hand_in(record_property, row("enqueued", "resend", deaths, counted), *(count for _, count in counted))
    for _, count in counted:
        assert (count.lost, count.duplicates) == ([], 0)


def create_and_lose_the_answer(ground: ProvingGround, crew: Crew, list_id: str, token: str) -> None:
    """Has a Send Engine create a job, which dies before it answers and before it rings."""
    address = str(free_address())
    server: WorkerProcess = crew.serve_send_engine(address, MESSMAIL_FAILPOINT="enqueued:1")
    with grpc.insecure_channel(address) as channel:
        request = pb.CreateSendJobRequest(list_id=list_id, subject="Lost answer", body_text="Hello")
        with pytest.raises(grpc.RpcError) as lost:
            send_engine_pb2_grpc.SendEngineStub(channel).CreateSendJob(
                request, metadata=(("authorization", f"Bearer {token}"),), timeout=30
            )
    assert lost.value.code() is grpc.StatusCode.UNAVAILABLE
    assert server.wait_end(DEATH_SECONDS) == -signal.SIGKILL


def status_of(ground: ProvingGround, job_id: str) -> str:
    """Returns the state of a job, as the ledger has it."""
    ((status,),) = ground.ledger.rows("SELECT status FROM send_jobs WHERE id = %s", job_id)
    return str(status)


def jobs_of(ground: ProvingGround, list_id: str) -> set[str]:
    """Returns the send jobs of a list."""
    return {str(found[0]) for found in ground.ledger.rows("SELECT id FROM send_jobs WHERE list_id = %s", list_id)}


def row(
    boundary: str,
    on_unknown: str,
    deaths: int,
    counted: list[tuple[WatchedJob, Recount]],
) -> FaultRow:
    """Returns the row of a boundary."""
    return FaultRow(
        claim="D2",
        fault=f"died at “{boundary}”, {on_unknown}",
        asked=RUNS,
        made=deaths,
        lost=sum(len(count.lost) for _, count in counted),
        duplicates=sum(count.duplicates for _, count in counted),
        bound=sum(job.bound for job, _ in counted),
        unknown=sum(count.states["unknown"] for _, count in counted),
    )
