"""A process hears that it is to stop, also when it was stopped and continued a moment before."""

import os
import signal
import subprocess
import sys

import pytest

WAITS = """
import threading
from servicekit.stop_signals import StopSignals
stop = StopSignals()
for _ in range(8):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
print("ready", flush=True)
stop.wait()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_hears_of_its_end_right_after_it_was_continued(number: signal.Signals) -> None:
    for _ in range(10):
        with subprocess.Popen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED)
            process.send_signal(signal.SIGCONT)
            process.send_signal(number)
            try:
                assert process.wait(5) == 0
            finally:
                process.kill()
