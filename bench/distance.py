"""`make bench-distance`: mails a second over one connection to a relay far away, against aiosmtplib over one as well.

A proxy adds the round-trip time; everything else is on this machine and too little to matter. Session and TLS are up
before the clock starts. The worker sends in groups of what a quarter of a second takes, and a group's last mail has
none to travel with: that is measured too.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import aiosmtplib
import uvloop

from bench import report
from send_engine.esp.port import ComposedMail, Verdict
from send_engine.esp.smtp import SmtpEsp
from tests.rig.proxy import Weather, fault_proxy
from tests.smtp_server import SmtpServer

AIOSMTPLIB, WHOLE, GROUPS = "aiosmtplib", "Messmail", "Messmail, in groups"
TARGET = 2.5
_GROUP_SECONDS = 0.25
_CONTENT = b"Subject: Weekly\r\n\r\n" + (b"0123456789" * 7 + b"\r\n") * 42


async def aiosmtplib_rate(port: int, mails: int) -> float:
    """Sends so many mails with aiosmtplib; returns mails a second."""
    async with aiosmtplib.SMTP(hostname="127.0.0.1", port=port) as client:
        started = time.perf_counter()
        for number in range(mails):
            await client.sendmail("news@bench.example", [f"member{number}@example.com"], _CONTENT)
        return mails / (time.perf_counter() - started)


async def our_rate(port: int, mails: int, group: int) -> float:
    """Sends so many mails with our client, in groups; returns mails a second."""
    composed = [
        ComposedMail("news@bench.example", f"member{n}@example.com", _CONTENT, smtputf8=False, eight_bit=False)
        for n in range(mails)
    ]
    esp = SmtpEsp(f"smtp://127.0.0.1:{port}", connections=1)
    try:
        await _send(esp, composed[:1])
        started = time.perf_counter()
        for start in range(0, mails, group):
            await _send(esp, composed[start : start + group])
        return mails / (time.perf_counter() - started)
    finally:
        await esp.close()


async def _send(esp: SmtpEsp, mails: Sequence[ComposedMail]) -> None:
    outcomes = await esp.send(mails, lambda: False)
    if any(outcome.verdict is not Verdict.accepted for outcome in outcomes):
        raise RuntimeError("the server did not take every mail")


async def one_round(round_trip: float, mails: int) -> dict[str, float]:
    """Measures everything once; ours carries four times the mails, so that each takes about as long."""
    group = max(1, round(_GROUP_SECONDS / round_trip))
    async with SmtpServer() as server:
        with fault_proxy(f"127.0.0.1:{server.port}", Weather(round_trip=round_trip)) as proxy:
            port = int(proxy.address.rpartition(":")[2])
            rates = {
                AIOSMTPLIB: await aiosmtplib_rate(port, mails),
                WHOLE: await our_rate(port, 4 * mails, 4 * mails),
                GROUPS: await our_rate(port, 4 * mails, group),
            }
    if len(server.mails) != 9 * mails + 2:
        raise RuntimeError(f"the server took {len(server.mails)} of {9 * mails + 2} mails")
    return rates


def main() -> int:
    """Measures, prints and saves; answers 1 when the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mails", type=int, default=40, help="of aiosmtplib in each round")
    parser.add_argument("--round-trip", type=float, default=0.05, metavar="SECONDS")
    parser.add_argument("--save", type=Path, default=report.RESULTS / "distance.json", help="where the result goes")
    options = parser.parse_args()
    rounds: dict[str, list[float]] = {AIOSMTPLIB: [], WHOLE: [], GROUPS: []}
    for number in range(1, options.rounds + 1):
        print(f"round {number} of {options.rounds}", file=sys.stderr, flush=True)
        for name, rate in uvloop.run(one_round(options.round_trip, options.mails)).items():
            rounds[name].append(rate)
    print(report.table(rounds, AIOSMTPLIB, "mails/s"))
    report.save(options.save, rounds, AIOSMTPLIB, round_trip_seconds=options.round_trip, target=TARGET)
    reached = report.ratios(rounds, AIOSMTPLIB)[WHOLE]
    print(f"over {options.round_trip * 1000:.0f} ms: {reached:.2f} times aiosmtplib (target {TARGET}); {options.save}")
    return 0 if reached >= TARGET else 1


if __name__ == "__main__":
    raise SystemExit(main())
