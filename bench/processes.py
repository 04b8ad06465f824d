"""What processes used: CPU seconds of a process with all its children, and the private memory of one."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

Pids = Mapping[str, Sequence[int]]


def cpu_seconds(pids: Pids) -> dict[str, float]:
    """Returns the CPU seconds used until now, by name: of each process, its children, and those that have ended."""
    return {name: sum(_tree_seconds(pid) for pid in numbers) for name, numbers in pids.items()}


def _tree_seconds(pid: int) -> float:
    seconds = 0.0
    root = psutil.Process(pid)
    for process in [root, *root.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            seconds += times.user + times.system + times.children_user + times.children_system
    return seconds


class PeakMemory:
    """Watches the private memory of processes, in MiB, while a `with` block runs; `peaks` is by name, the largest."""

    def __init__(self, pids: Pids, every_seconds: float = 0.5) -> None:
        self.peaks: dict[str, float] = {}
        self._pids = pids
        self._every = every_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(self._every):
            for name, numbers in self._pids.items():
                largest = max(map(_private_mebibytes, numbers))
                self.peaks[name] = max(largest, self.peaks.get(name, 0.0))


def _private_mebibytes(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty"))) / 1024
