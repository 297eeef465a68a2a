"""`python -m zerrow_ray.demo`."""

import re
import subprocess
import sys


def test_the_demo_stores_each_column_once() -> None:
    command = [sys.executable, "-m", "zerrow_ray.demo"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    plain, stored, copied = re.findall(r": ([\d.]+ \w+)", done.stdout)
    assert plain == "2.1 GiB"
    number, unit = stored.split()
    assert unit == "MiB"
    assert 352 <= float(number) < 352 * 1.05  # 11 columns of 32 MiB, with a validity bitmap or more
    assert copied == "0 B"
