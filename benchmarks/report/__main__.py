"""`make report`: runs all cases, and writes what they say as HTML and Markdown.

A quick run, of some minutes, checks that every case runs, that every answer is right, and that
directions hold; FULL=1 takes hours. Exits with 1 if a side failed or a claim does not hold.
"""

import argparse
import signal
import sys

from benchmarks.report import page, runner
from benchmarks.report.cases import CASES
from benchmarks.report.numbers import outcomes


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("--full", action="store_true", help="sizes and rounds that say something")
    parser.add_argument("--only", nargs="+", metavar="CASE", help="by name; all by default")
    parser.add_argument("--page", action="store_true", help="run nothing, write the page anew")
    given = parser.parse_args()
    # What cases set up is taken down again also when somebody ends this: swap files, slow disks.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    names = given.only or [case.name for case in CASES]
    if unknown := set(names) - {case.name for case in CASES}:
        parser.error(f"there is no case {', '.join(sorted(unknown))}")
    for case in CASES:
        if case.name in names and not given.page:
            if runner.is_done(runner.load(case, given.full)):
                print(f"{case.name}: done at this revision", file=sys.stderr, flush=True)
                continue
            print(case.name, file=sys.stderr, flush=True)
            runner.run(case, given.full)
    known = [(case, record) for case in CASES if (record := runner.load(case, given.full))]
    written = page.write(page.build(known, given.full), runner.directory(given.full))
    print(f"The report is {written}.")
    wrong = [
        *(
            f"{case.name}: {side} failed: {why}"
            for case, r in known
            for side, why in r["failed"].items()
        ),
        *(
            f"{case.name}: {found.ratio.what}: {found.times:.2f} times"
            for case, r in known
            for found in outcomes(case, r)
            if not found.holds
        ),
    ]
    print("\n".join(wrong) if wrong else "Every case ran, and every direction is as claimed.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
