"""RabbitMQ as the broker of Send Engine and its workers: the same journey, and the same when it hangs or dies."""

from pathlib import Path

import grpc
import pytest

from local_stack.ports import free_address
from messmail.send_engine.v1 import send_engine_pb2 as pb
from messmail.send_engine.v1 import send_engine_pb2_grpc
from tests.rig.proving_ground import ProvingGround
from tests.rig.rabbitmq import rabbitmq
from tests.stack import wait_until

PEOPLE = 800

pytestmark = [pytest.mark.slow, pytest.mark.rabbitmq, pytest.mark.timeout(400)]


def test_with_rabbitmq_as_broker_everybody_gets_one_mail_and_its_faults_cost_none(
    ground: ProvingGround, tmp_path: Path
) -> None:
    newsletter, audience = ground.audience(PEOPLE)
    token = ground.stack.access_token(newsletter.client)
    request = pb.CreateSendJobRequest(list_id=newsletter.list_id, subject="By rabbit", body_text="Hello")
    with rabbitmq(tmp_path / "rabbitmq") as broker, ground.crew() as crew:
        address = str(free_address())
        engine = crew.serve_send_engine(address, BROKER_URL=broker.url)
        workers = [crew.start(BROKER_URL=broker.url).wait_ready() for _ in range(2)]
        wait_until(lambda: broker.listeners("messmail-bulk") == 2, "both workers at the doorbell")
        with grpc.insecure_channel(address) as channel:
            stub = send_engine_pb2_grpc.SendEngineStub(channel)
            for fault in ("", "frozen", "dead"):
                ground.sink.slow_down(0.02)
                if fault == "frozen":
                    broker.freeze(True)
                # A ring that nobody takes holds no answer up.
                made = stub.CreateSendJob(request, metadata=(("authorization", f"Bearer {token}"),), timeout=5)
                with ground.watched(newsletter, audience, made.send_job.id) as job:
                    job.wait_sent(50)
                    if fault == "dead":
                        broker.freeze(False)
                        broker.kill()
                    ground.sink.script()
                    job.wait_completed(60)
                    counted = job.recount()
                assert (counted.lost, counted.duplicates, counted.states) == ([], 0, {"sent": PEOPLE})
                if not fault:
                    assert not any(process.has_logged("ring.failed") for process in (engine, *workers))
