"""Virtual environments that wheels of dist/ are installed into, as their users do."""

import os
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def wheel_for(python: str = sys.executable) -> Path | None:
    """Return the wheel of `make wheels` for a Python on this machine; None if there is none."""
    code = "import sys; print('cp%d%d' % sys.version_info[:2])"
    tag = subprocess.check_output([python, "-c", code], text=True).strip()
    found = [*(_ROOT / "dist").glob(f"zerrow_store-*-{tag}-*_{os.uname().machine}.whl")]
    assert len(found) <= 1, found
    return found[0] if found else None


class Environment:
    """A virtual environment that knows nothing of the one that makes it, nor of the sources."""

    def __init__(self, root: Path, python: str = sys.executable) -> None:
        self.root = root
        subprocess.run([python, "-m", "venv", root], check=True)

    def install(self, *requirements: object) -> None:
        """Install packages. Raises RuntimeError with what pip says."""
        pip = ["-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--only-binary"]
        done = self.run(*pip, ":all:", *requirements)
        if done.returncode:
            raise RuntimeError(done.stderr)

    def run(self, *arguments: object) -> "subprocess.CompletedProcess[str]":
        """Run the environment's Python."""
        apart = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [str(self.root / "bin" / "python"), *map(str, arguments)]
        return subprocess.run(command, cwd=self.root, env=apart, capture_output=True, text=True)
