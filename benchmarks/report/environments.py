"""Python environments of their own, for peers whose packages do not go together with ours."""

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "build" / "report"


def python(name: str) -> str:
    """Return the interpreter of an environment."""
    return str(FOLDER / name / "bin" / "python")


@cache
def cannot_install(name: str, packages: tuple[str, ...], modules: tuple[str, ...]) -> str:
    """Make the environment if it is not there. Returns why it cannot be had, or ""."""
    done = FOLDER / name / "installed"
    if done.exists() and done.read_text() == _what(packages):
        return ""
    shutil.rmtree(FOLDER / name, ignore_errors=True)
    print(f"  installing {', '.join(packages)}", file=sys.stderr, flush=True)
    pip = [python(name), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    for command in (
        [sys.executable, "-m", "venv", str(FOLDER / name)],
        [*pip, "--only-binary", ":all:", *packages],
        [python(name), "-c", f"import {', '.join(modules)}"],
    ):
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            said = [line for line in run.stderr.splitlines() if line.strip()]
            return said[-1] if said else f"{command[0]} failed"
    done.write_text(_what(packages))
    return ""


def _what(packages: tuple[str, ...]) -> str:
    return "\n".join(packages)
