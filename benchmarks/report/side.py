"""Runs one part of a case on one side, in this process, and prints its points as a JSON object.

Whatever Python runs it: what it imports is only what the case's module does.
"""

import argparse
import json
import sys
from importlib import import_module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("module")
    parser.add_argument("function")
    parser.add_argument("--side", required=True)
    parser.add_argument("--part", required=True)
    parser.add_argument("--full", action="store_true")
    given = parser.parse_args()
    measure = getattr(import_module(given.module), given.function)
    json.dump({"points": measure(given.side, given.part, given.full)}, sys.stdout)


if __name__ == "__main__":
    main()
