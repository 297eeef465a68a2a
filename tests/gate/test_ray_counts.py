"""What an operation through Ray takes is what is written down in `ray_counts.json`, exactly; see
`test_counts`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.gate.operations import ENVIRON
from tests.gate.ray_tasks import TRACE
from tests.gate.written_down import compare

COUNTS = Path(__file__).with_name("ray_counts.json")


def test_bytes_copied_and_requests(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.touch()
    done = subprocess.run(
        [sys.executable, "-m", "tests.gate.ray_operations"],
        env=os.environ | ENVIRON | {TRACE: str(trace)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    compare(json.loads(done.stdout), COUNTS)
