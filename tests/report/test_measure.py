"""What a process has done counts after its end, and once."""

import os
import resource
import signal
import subprocess
import sys

from benchmarks.measure import Work

MIB = 1 << 20
TOUCH = f"""
import mmap, sys
memory = mmap.mmap(-1, 64 * {MIB})
memory.madvise(mmap.MADV_NOHUGEPAGE)
for start in range(0, len(memory), mmap.PAGESIZE):
    memory[start] = 1
print("touched", flush=True)
sys.stdin.read()
"""


def test_a_process_that_has_ended_counts_once() -> None:
    pages = 64 * MIB // resource.getpagesize()
    work = Work()
    with subprocess.Popen(
        [sys.executable, "-c", TOUCH], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"touched\n"
        work.look()
        seen = work.faults
        child.kill()
    work.look()
    assert pages <= seen <= work.faults < 2 * pages
    assert 0 < work.cpu < 60


def test_a_process_that_nobody_waits_for_is_not_taken_off() -> None:
    """As with Ray's workers: the kernel adds nothing of them to their parent."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        child = subprocess.Popen(
            [sys.executable, "-c", TOUCH], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"touched\n"
        work = Work()
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        work.look()
        assert work.faults >= 0
    finally:
        signal.signal(signal.SIGCHLD, before)
        child.stdout.close()
        child.stdin.close()
