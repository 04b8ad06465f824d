"""Two workers on machines of their own: one is cut off in the middle of a job, and nobody is lost."""

from __future__ import annotations

import signal
from urllib.parse import urlsplit

import pytest

from tests.faults.faults_table import FaultRow, hand_in, runs
from tests.rig.namespaces import Machine, machine
from tests.rig.proving_ground import ProvingGround
from tests.rig.workers import STOP_SECONDS, Crew, WorkerProcess
from tests.stack import wait_until

PEOPLE = 1_500
# While it writes; before consent was answered; and where it cannot even give the batch back.
FINDS_OUT = ("batch.lost", "batch.no_consent_answer", "lane.stopped")

pytestmark = [pytest.mark.slow, pytest.mark.namespaces, pytest.mark.timeout(1200)]


def test_a_machine_that_is_cut_off_in_mid_job_costs_nobody_a_mail(
    ground: ProvingGround, record_property: object
) -> None:
    asked = 5
    cuts = runs(asked, 1)
    lost = duplicates = bound = unknown = 0
    recovery = 0.0
    for _ in range(cuts):
        ground.sink.slow_down(0.02)
        services = services_of(ground)
        with machine(**services) as one, machine(**services) as other, ground.crew() as crew:
            cut_off, left = (start_on(crew, where) for where in (one, other))
            with ground.job(PEOPLE) as job:
                job.wait_sent(200)
                one.pull_the_cable()
                logged = cut_off.logged()
                while not job.fault(cut_off):
                    # Between two groups it had nothing under way.
                    one.plug_it_in()
                    job.wait_sent(job.sent + 20)
                    one.pull_the_cable()
                    logged = cut_off.logged()
                assert job.sent < PEOPLE, "the cut came after the job: slow the sink further"
                job.wait_completed()
                one.plug_it_in()
                wait_until(lambda: any(cut_off.has_logged(way, logged) for way in FINDS_OUT), "its discovery", 120)  # noqa: B023
                assert cut_off.runs and left.runs
                # Asked to end, it first ends what it had.
                cut_off.send(signal.SIGTERM)
                cut_off.wait_end(STOP_SECONDS)
                counted = job.recount()
                recovery = max(recovery, counted.recovery)
        assert not any(counted.violations.values()), counted.violations
        assert set(counted.doubled) <= job.in_flight
        assert counted.states == {"sent": PEOPLE}
        lost, duplicates, bound = lost + len(counted.lost), duplicates + counted.duplicates, bound + job.bound
        unknown += counted.states["unknown"]
    hand_in(
        record_property,
        FaultRow("D1", "worker's machine cut off the network", asked, cuts, lost, duplicates, bound, unknown, recovery),
    )
    assert lost == 0
    assert duplicates <= bound


def services_of(ground: ProvingGround) -> dict[str, str]:
    """Returns where a worker's services are, by the setting that names them."""
    environment = Crew(ground.stack, ground.sink.address, ground.folder).environment()
    database, broker = urlsplit(environment["SEND_ENGINE_DATABASE_URL"]), urlsplit(environment["BROKER_URL"])
    return {
        "SEND_ENGINE_DATABASE_URL": f"{database.hostname}:{database.port}",
        "BROKER_URL": f"{broker.hostname}:{broker.port}",
        "MEMBER_CENTER_ADDRESS": environment["MEMBER_CENTER_ADDRESS"],
        "SEND_ENGINE_SMTP_URL": ground.sink.address,
    }


def start_on(crew: Crew, where: Machine) -> WorkerProcess:
    """Starts a worker on a machine."""
    environment = crew.environment()
    settings = {"SEND_ENGINE_SMTP_URL": f"smtp://{where.reach['SEND_ENGINE_SMTP_URL']}"}
    # TCP tries again ever more rarely: who waits for an answer to a dot may not hear that the line is back for minutes.
    settings["SEND_ENGINE_FINAL_DOT_SECONDS"] = "20"
    settings["MEMBER_CENTER_ADDRESS"] = where.reach["MEMBER_CENTER_ADDRESS"]
    for name in ("SEND_ENGINE_DATABASE_URL", "BROKER_URL"):
        parts = urlsplit(environment[name])
        account = parts.netloc.rpartition("@")[0]
        settings[name] = parts._replace(netloc=f"{account}@{where.reach[name]}").geturl()
    return crew.start(*where.prefix, **settings).wait_ready()
