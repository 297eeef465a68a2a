"""`vm.memfd_noexec=2`: Linux 6.3 to 6.5 then refuse memory files that could be executed; newer ones
make them so that they cannot. Kernels older than 6.3 refuse what asks for it.
"""

import errno
import fcntl
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.capabilities import needs_sandboxes
from tests.helpers.pods import MASKED_EQ, run
from zerrow_store.memfd import create_memfd
from zerrow_store.sandbox.seccomp import Filter

PACKAGE = Path(__file__).parents[2] / "zerrow_store"
NOEXEC_SEAL = 0x0008
SEAL_EXEC = 0x0020

WORK = """
import sys
import pyarrow as pa
import zerrow_store
from zerrow_store.cli.main import main
from zerrow_store.native import _native
from zerrow_store.sandbox.seccomp import make_filter

name, seals = sys.argv[1], int(sys.argv[2])
assert main(["start", "--name", name]) == 0
client = zerrow_store.connect(name)
table = pa.table({"x": pa.array(range(1 << 20))})
assert client.get(client.put(table)).equals(table)
import fcntl
for fd in (_native.arena_segment()[1], make_filter(network=False)):
    assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & 0x20 == seals, fcntl.fcntl(fd, fcntl.F_GET_SEALS)
assert main(["stop", "--name", name]) == 0
"""


def is_known_here() -> bool:
    try:
        os.close(os.memfd_create("test", NOEXEC_SEAL))
    except OSError:
        return False
    return True


needs_flag = pytest.mark.skipif(
    not is_known_here(), reason="MFD_NOEXEC_SEAL is of Linux 6.3 and newer"
)


def refuse_executable(rules: Filter) -> None:
    rules.deny("memfd_create", (1, MASKED_EQ, NOEXEC_SEAL, 0), code=errno.EACCES)


def know_no_such_flag(rules: Filter) -> None:
    rules.deny("memfd_create", (1, MASKED_EQ, NOEXEC_SEAL, NOEXEC_SEAL), code=errno.EINVAL)


@needs_sandboxes
@pytest.mark.parametrize(
    ("kernel", "seals"),
    [
        pytest.param(refuse_executable, SEAL_EXEC, marks=needs_flag),
        pytest.param(know_no_such_flag, 0),
    ],
)
def test_a_store_works_with_either_kernel(
    kernel: Callable[[Filter], None], seals: int, tmp_path: Path
) -> None:
    done = run(
        [sys.executable, "-c", WORK, f"test-{uuid.uuid4().hex[:12]}", seals],
        kernel,
        ["--dev-bind", "/", "/", "--proc", "/proc"],
        ZERROW_HUGE_PAGES="off",
        XDG_STATE_HOME=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr


@needs_flag
def test_its_files_cannot_be_executed() -> None:
    fd = create_memfd("test")
    try:
        assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) == SEAL_EXEC  # others can be added
        assert os.fstat(fd).st_mode & 0o111 == 0
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)


def test_other_errors_are_told() -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        create_memfd("x" * 300)


def test_there_is_one_place_for_each_language() -> None:
    sources = [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.cc")]
    making = {p.name for p in sources if re.search(r"\bmemfd_create\(", p.read_text())}
    assert making == {"memfd.py", "memory_file.cc"}


@needs_flag
def test_in_a_namespace_with_the_setting(tmp_path: Path) -> None:
    """The setting is a PID namespace's own. The shell is its first process, which has to reap."""
    made = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    setting = 'echo 2 > /proc/sys/vm/memfd_noexec && "$@"'
    tried = subprocess.run([*made, "sh", "-c", setting, "sh", "true"], capture_output=True)
    if tried.returncode != 0:
        pytest.skip(f"no such namespace here: {tried.stderr.decode()}")
    name = f"test-{uuid.uuid4().hex[:12]}"
    done = subprocess.run(
        [*made, "sh", "-c", setting, "sh", sys.executable, "-c", WORK, name, str(SEAL_EXEC)],
        env={**os.environ, "ZERROW_HUGE_PAGES": "off", "XDG_STATE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
