"""Finds and ends the processes that an earlier run of the same data directory left behind.

A process is ours when it carries the mark of this data directory in its environment. Where the environment cannot be
read (root without CAP_SYS_PTRACE, as in a container) the record of the earlier run decides: number, start time and
command must all be the same. Nobody else's process is ever signalled.
"""

import json
import os
import signal
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import psutil

from local_stack.children import MARK, RunningChild
from local_stack.data_directory import DataDirectory, write_private

_GRACE = 15.0
_RECORDS = "processes.json"


@dataclass(frozen=True)
class _Record:
    """What is known of a started child by those who come later."""

    name: str
    pid: int
    started: float
    """Seconds since the epoch, as the kernel tells it."""
    command: tuple[str, ...]
    stage: int
    stop_signal: int


def remember(data: DataDirectory, running: Iterable[RunningChild]) -> None:
    """Records the running children, replacing the previous record atomically."""
    records = []
    for one in running:
        try:
            started = psutil.Process(one.pid).create_time()
        except psutil.NoSuchProcess:
            continue
        child = one.child
        records.append(_Record(child.name, one.pid, started, child.command, child.stage, child.stop_signal))
    write_private(data.path / _RECORDS, json.dumps([asdict(record) for record in records]))


def end_leftovers(data: DataDirectory) -> list[str]:
    """Ends what an earlier run left, in the order of an ordinary stop, and returns the names."""
    records = {record.pid: record for record in _recorded(data)}
    spared = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = [
        process
        for process in psutil.process_iter()
        if process.pid not in spared and _is_ours(process, data, records.get(process.pid))
    ]
    # What carries the mark and is in no record was started by a child, and stops first.
    stages = {process: records[process.pid].stage if process.pid in records else 99 for process in found}
    for stage in sorted(set(stages.values()), reverse=True):
        asked = [process for process in found if stages[process] == stage]
        for process in asked:
            record = records.get(process.pid)
            _signal(process, record.stop_signal if record else signal.SIGTERM)
        _, alive = psutil.wait_procs(asked, timeout=_GRACE)
        for process in alive:
            _signal(process, signal.SIGKILL)
        psutil.wait_procs(alive, timeout=_GRACE)
    return sorted(records[process.pid].name for process in found if process.pid in records)


def _is_ours(process: psutil.Process, data: DataDirectory, record: _Record | None) -> bool:
    try:
        return process.environ().get(MARK) == str(data.path)
    except psutil.AccessDenied:
        return record is not None and _matches(process, record)
    except psutil.NoSuchProcess:
        return False


def _matches(process: psutil.Process, record: _Record) -> bool:
    try:
        return abs(process.create_time() - record.started) < 1.0 and tuple(process.cmdline()) == record.command
    except psutil.Error:
        return False


def _signal(process: psutil.Process, number: int) -> None:
    try:
        # psutil compares the start time again, so a number that was given away meanwhile is not signalled.
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def _recorded(data: DataDirectory) -> list[_Record]:
    try:
        rows = json.loads((data.path / _RECORDS).read_text())
    except FileNotFoundError:
        return []
    return [_Record(**row | {"command": tuple(row["command"])}) for row in rows]
