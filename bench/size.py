"""`make bench-size`: what a mail costs in a large job against one in a small job, in CPU time and in memory.

One installation sends jobs of both sizes in turn, small ones before and after each large one, as many mails together,
so that what slows the machine slows both; the ratios are medians over the rounds. The sink does the same for every
mail: where its CPU time differs too, the machine was not the same. Processes never give memory back, so peaks of the
small jobs are those of the jobs before the first large one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median

from bench import report, smtp_load
from bench.installation import stack
from bench.send import MeasuredJob, Tenant, measured_job

CPU_TARGET, MEMORY_TARGET = 1.15, 1.2
_SMALL_JOBS_BESIDE = 5


def cpu_of(job: MeasuredJob) -> float:
    """Returns the CPU microseconds a mail of everything but the sink."""
    return sum(cost for name, cost in job.cpu_microseconds.items() if name != "sink")


def median_cpu(jobs: list[MeasuredJob]) -> dict[str, float]:
    """Returns the median CPU microseconds a mail, by process."""
    return {name: round(median(job.cpu_microseconds[name] for job in jobs), 1) for name in jobs[0].cpu_microseconds}


def peaks(jobs: list[MeasuredJob]) -> dict[str, float]:
    """Returns the most private memory in MiB, by process."""
    return {name: round(max(job.peak_mebibytes[name] for job in jobs), 1) for name in jobs[0].peak_mebibytes}


def main() -> int:
    """Measures, prints and saves; answers 1 when a target is missed, 2 when Postfix's programs are missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", type=int, default=100_000, help="members of a small job")
    parser.add_argument("--large", type=int, default=1_000_000, help="members of a large job")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--save", type=Path, default=report.RESULTS / "size.json", help="where the result goes")
    options = parser.parse_args()
    if lacking := smtp_load.missing():
        print(f"{' and '.join(lacking)} are missing. On Debian and Ubuntu: apt-get install postfix", file=sys.stderr)
        return 2
    small_jobs: list[list[MeasuredJob]] = []
    large_jobs: list[MeasuredJob] = []
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), smtp_load.free_port()
        folder.chmod(0o711)
        with stack(folder, "--smtp-url", f"smtp://127.0.0.1:{port}", "--workers", str(options.workers)) as installation:
            tenant = Tenant(installation)
            small, large = tenant.new_list(options.small), tenant.new_list(options.large)

            def send(list_id: str, members: int) -> MeasuredJob:
                job = measured_job(installation, tenant, list_id, members, folder / "sink", port)
                cpu = f"{cpu_of(job):.0f} us of CPU a mail, the sink {job.cpu_microseconds['sink']:.0f}"
                print(f"  {members:,} members: {job.sending:,.0f} mails/s, {cpu}", file=sys.stderr, flush=True)
                return job

            for number in range(1, options.rounds + 1):
                print(f"round {number} of {options.rounds}", file=sys.stderr, flush=True)
                before = [send(small, options.small) for _ in range(_SMALL_JOBS_BESIDE)]
                large_jobs.append(send(large, options.large))
                small_jobs.append(before + [send(small, options.small) for _ in range(_SMALL_JOBS_BESIDE)])
    all_small = [job for jobs in small_jobs for job in jobs]
    pairs = list(zip(large_jobs, small_jobs, strict=True))
    cpu = median(cpu_of(one) / median(map(cpu_of, beside)) for one, beside in pairs)
    sink = median(
        one.cpu_microseconds["sink"] / median(job.cpu_microseconds["sink"] for job in beside) for one, beside in pairs
    )
    small_peaks, large_peaks = peaks(small_jobs[0][:_SMALL_JOBS_BESIDE]), peaks(large_jobs)
    grown = {name: round(large_peaks[name] / small_peaks[name], 3) for name in large_peaks}
    small_cpu, large_cpu = median_cpu(all_small), median_cpu(large_jobs)
    print(f"{'CPU microseconds a mail':26} {options.small:>10,} {options.large:>10,}")
    for process, cost in small_cpu.items():
        print(f"{process:26} {cost:10.1f} {large_cpu[process]:10.1f}")
    print(f"{'peak private MiB':26} {options.small:>10,} {options.large:>10,} {'ratio':>8}")
    for process, peak in small_peaks.items():
        print(f"{process:26} {peak:10.1f} {large_peaks[process]:10.1f} {grown[process]:8.2f}")
    print(f"CPU a mail: {cpu:.2f} times that of the small job (target {CPU_TARGET}); the sink's: {sink:.2f} times")
    print(f"peak memory: at most {max(grown.values()):.2f} times that of the small job (target {MEMORY_TARGET})")
    report.write(
        options.save,
        members={"small": options.small, "large": options.large},
        workers=options.workers,
        mails_per_second={
            "small": [[round(job.sending) for job in jobs] for jobs in small_jobs],
            "large": [round(job.sending) for job in large_jobs],
        },
        cpu_microseconds_per_mail={"small": small_cpu, "large": large_cpu},
        peak_private_mebibytes={"small": small_peaks, "large": large_peaks},
        cpu_ratio=round(cpu, 3),
        sink_cpu_ratio=round(sink, 3),
        memory_ratios=grown,
        targets={"cpu_ratio": CPU_TARGET, "memory_ratio": MEMORY_TARGET},
    )
    print(f"saved in {options.save}")
    return 0 if cpu <= CPU_TARGET and max(grown.values()) <= MEMORY_TARGET else 1


if __name__ == "__main__":
    raise SystemExit(main())
