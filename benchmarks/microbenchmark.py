"""`ray microbenchmark`'s put and get cases, with the plugin on and off, in alternation.

The plugin is switched on as a user would without changing code: by Ray's hook. Prints, for each
case, both medians of the rates (calls, or gigabytes, a second) and their ratio; writes JSON.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys

from benchmarks.hop import RESULTS, environment

PATTERNS = ("Plasma Store", "put gigabytes")
# Without its second part, which measures Ray Client.
_RUN = """
from ray._private import ray_perf
ray_perf.client_microbenchmark_main = lambda results: results
ray_perf.main()
"""
_LINE = re.compile(r"^(?P<case>.+) per second (?P<rate>[\d.]+) \+- [\d.]+$")


def run_once(plugin: bool, pattern: str) -> dict[str, float]:
    """Return the rates of the cases whose name contains `pattern`."""
    variables = {**os.environ, "TESTS_TO_RUN": pattern, "RAY_ADDRESS": "local"}
    if plugin:
        variables["RAY_RUNTIME_ENV_HOOK"] = "zerrow_ray.runtime_env_hook"
    command = [sys.executable, "-c", _RUN]
    done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=True)
    found = [match for line in done.stdout.splitlines() if (match := _LINE.match(line))]
    if not found:
        raise RuntimeError(f"no case of ray microbenchmark matches {pattern!r}:\n{done.stdout}")
    return {match["case"]: float(match["rate"]) for match in found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    rates: dict[str, dict[str, list[float]]] = {"plain": {}, "zerrow": {}}
    for _ in range(rounds):
        for side in rates:
            for pattern in PATTERNS:
                for case, rate in run_once(side == "zerrow", pattern).items():
                    rates[side].setdefault(case, []).append(rate)
                    print(f"  {side}: {case}: {rate}", file=sys.stderr, flush=True)
    RESULTS.mkdir(exist_ok=True)
    report = {"environment": environment(), "rounds": rounds, "rates": rates}
    (RESULTS / "microbenchmark.json").write_text(json.dumps(report, indent=1))
    print(f"{'case (per second)':45}{'Ray':>10}{'zerrow':>10}{'zerrow/Ray':>12}")
    for case, plain in rates["plain"].items():
        before, after = statistics.median(plain), statistics.median(rates["zerrow"][case])
        print(f"{case:45}{before:>10.1f}{after:>10.1f}{after / before:>12.3f}")


if __name__ == "__main__":
    main()
