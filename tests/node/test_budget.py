"""What a store may hold: by ZERROW_MEMORY, its control group's limit, or the machine's memory, and
what another store beside it may.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from zerrow_store.budget import default_budget, default_eviction
from zerrow_store.config import memory_limit

MIB = 1 << 20
GROUPS = Path("/sys/fs/cgroup/memory")
MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def kernel(root: Path, groups: str, limits: dict[str, str]) -> Path:
    """A file system as the kernel shows it to a process. limits: by path below /sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in limits.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("0::/a/b\n", {"a/b/memory.max": str(64 * MIB), "a/memory.max": "max"}, 64 * MIB),
        ("0::/a/b\n", {"a/b/memory.max": str(64 * MIB), "a/memory.max": str(MIB)}, MIB),
        # In a container the own group is the root that one sees.
        ("0::/\n", {"memory.max": str(64 * MIB)}, 64 * MIB),
        ("0::/a\n", {"a/memory.max": "max"}, MACHINE),
        ("0::/a\n", {"a/memory.max": str(1 << 60)}, MACHINE),
        # Version 1, beside a version 2 that has no memory controller.
        (
            "4:cpu:/c\n3:memory:/a/b\n0::/s\n",
            {
                "memory/a/b/memory.limit_in_bytes": str((1 << 63) - 4096),
                "memory/a/memory.limit_in_bytes": str(64 * MIB),
                "memory/c/memory.limit_in_bytes": "1",
            },
            64 * MIB,
        ),
        ("3:memory:/\n", {"memory/memory.limit_in_bytes": str(64 * MIB)}, 64 * MIB),
        ("0::/\n", {}, MACHINE),
    ],
)
def test_the_least_of_what_limits_this_process(
    tmp_path: Path, groups: str, limits: dict[str, str], expected: int
) -> None:
    assert memory_limit(kernel(tmp_path, groups, limits)) == expected


@pytest.mark.skipif(
    os.geteuid() != 0 or not (GROUPS / "memory.stat").exists(),
    reason="needs root and a memory cgroup of version 1",
)
def test_the_limit_of_a_real_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZERROW_MEMORY", raising=False)
    group = GROUPS / f"zerrow-{os.urandom(4).hex()}"
    group.mkdir()
    (group / "below").mkdir()
    code = "from zerrow_store.budget import default_budget; print(default_budget())"
    try:
        (group / "memory.limit_in_bytes").write_text(str(512 * MIB))
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            check=True,
            preexec_fn=lambda: (group / "below/cgroup.procs").write_text(str(os.getpid())),
        )
    finally:
        (group / "below").rmdir()
        group.rmdir()
    assert int(done.stdout) == int(0.6 * 512 * MIB)


@pytest.mark.parametrize(
    ("beside", "share"), [(0, 0.6), (MACHINE * 3 // 10, 0.3), (MACHINE * 6 // 10, 0.1)]
)
def test_stores_share_what_objects_may_have(
    monkeypatch: pytest.MonkeyPatch, beside: int, share: float
) -> None:
    monkeypatch.delenv("ZERROW_MEMORY", raising=False)
    monkeypatch.setattr("zerrow_store.budget.memory_limit", lambda: MACHINE)
    assert default_budget(beside) == pytest.approx(share * MACHINE, abs=1)


def test_what_is_set_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZERROW_MEMORY", "3 GiB")
    assert default_budget() == default_budget(MACHINE) == 3 << 30
    monkeypatch.setenv("ZERROW_MEMORY", "much")
    with pytest.raises(ValueError, match="ZERROW_MEMORY: 'much' is not a size"):
        default_budget()
    monkeypatch.setenv("ZERROW_MEMORY", "0")
    with pytest.raises(ValueError, match="ZERROW_MEMORY: a store needs more"):
        default_budget()


def test_a_policy_that_there_is_not_is_said_with_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert default_eviction() == "adaptive"
    monkeypatch.setenv("ZERROW_EVICTION", "no_such_module:Class")
    with pytest.raises(ValueError, match="ZERROW_EVICTION: there is no eviction policy"):
        default_eviction()
