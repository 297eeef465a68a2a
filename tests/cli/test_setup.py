"""tools/setup.sh, over stand-ins for all that it calls."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SETUP = Path(__file__).parents[2] / "tools" / "setup.sh"
TOOLS = ["sh", "mkdir", "tail", "cat", "chmod", "cp"]
PYTHON = """#!/bin/sh
case "$*" in
*libseccomp*) exit {seccomp} ;;
"-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
*"pip "*)
    i=0
    while [ $i -lt 100 ]; do echo "WARNING: pip has something to say" >&2; i=$((i + 1)); done
    exit {pip} ;;
*--version*) echo "Python 3.11" ;;
esac
"""


class Machine:
    """A PATH of a few programs, and a folder to set up in."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bin = root / "bin"
        self.bin.mkdir()
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool) or tool)
        self.has("python3.11", PYTHON.format(seccomp=0, pip=0))
        for tool in ("g++", "bwrap", "dot"):
            self.has(tool)
        self.is_user(1000)

    def has(self, name: str, script: str = "#!/bin/sh\n") -> None:
        self.lacks(name)
        (self.bin / name).write_text(script)
        (self.bin / name).chmod(0o755)

    def lacks(self, name: str) -> None:
        (self.bin / name).unlink(missing_ok=True)

    def is_user(self, number: int) -> None:
        self.has("id", f"#!/bin/sh\necho {number}\n")

    def set_up(self) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": str(self.bin), "PYTHON": "python3.11", "VENV": ".venv"}
        return subprocess.run(
            [str(self.bin / "sh"), str(SETUP)],
            cwd=self.root,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_what_it_does_is_said_in_a_few_lines(machine):
    done = machine.set_up()
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.partition(" ")[2].partition(" ")[0] for line in lines] == [
        "making",
        "installing",
        "done;",
    ]
    assert done.stderr == ""
    assert "missing" not in done.stdout
    assert "pip has something to say" in (machine.root / "build" / "setup.log").read_text()


@pytest.mark.parametrize(
    ("missing", "package"),
    [("bwrap", "bubblewrap"), ("dot", "graphviz"), ("libseccomp", "libseccomp2")],
)
def test_a_part_that_is_missing_stops_nothing(machine, missing, package):
    if missing == "libseccomp":
        machine.has("python3.11", PYTHON.format(seccomp=1, pip=0))
    machine.lacks(missing)
    done = machine.set_up()
    assert done.returncode == 0, done.stderr
    assert f"{package} is missing" in done.stdout
    assert f"sudo apt-get install {package}" in done.stdout


def test_a_part_that_apt_cannot_give_stops_nothing(machine):
    machine.is_user(0)
    machine.has("apt-get", "#!/bin/sh\necho apt has something to say >&2\nexit 100\n")
    machine.lacks("bwrap")
    done = machine.set_up()
    assert done.returncode == 0, done.stderr
    assert "bubblewrap is missing" in done.stdout
    assert "something to say" not in done.stdout + done.stderr


def test_what_is_missing_is_installed_for_root(machine):
    machine.is_user(0)
    machine.has("apt-get", '#!/bin/sh\necho "apt-get $*" >&2\n')
    for name in ("bwrap", "g++"):
        machine.lacks(name)
    done = machine.set_up()
    assert done.returncode == 0, done.stderr
    assert "missing" not in done.stdout
    log = (machine.root / "build" / "setup.log").read_text()
    assert "install -y -qq bubblewrap" in log
    assert "install -y -qq g++" in log


def test_a_compiler_is_needed(machine):
    machine.lacks("g++")
    done = machine.set_up()
    assert done.returncode == 1
    assert "sudo apt-get install g++" in done.stderr
    assert not os.path.exists(machine.root / ".venv")


def test_what_pip_says_last_is_shown_when_it_fails(machine):
    machine.has("python3.11", PYTHON.format(seccomp=0, pip=1))
    done = machine.set_up()
    assert done.returncode == 1
    assert "pip has something to say" in done.stderr
    assert len(done.stderr.splitlines()) <= 22
    assert "build/setup.log" in done.stderr
