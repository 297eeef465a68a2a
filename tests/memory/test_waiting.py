"""Nobody waits for what takes long with a lock that others need: the GIL, or the arena's."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helpers.python import run_python


@pytest.fixture(params=["scanned", "read"])
def slow_page_map(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Build what stops readers of the page map; returns the environment that they run in."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    made = tmp_path_factory.mktemp("slow")
    source = Path(__file__).with_name("slow_page_map.c")
    options = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([compiler, *options, "-o", made / "slow.so", source, "-ldl"], check=True)
    # Behind what this process runs with: a sanitizer has to come first.
    preloaded = [*os.environ.get("LD_PRELOAD", "").split(), str(made / "slow.so")]
    return ({"ZERROW_TEST_NO_SCAN": "1"} if request.param == "read" else {}) | {
        "LD_PRELOAD": " ".join(preloaded),
        "ZERROW_TEST_THERE": str(made / "there"),
        "ZERROW_TEST_GO": str(made / "go"),
    }


def test_who_holds_the_gil_does_not_wait_for_room() -> None:
    run_python(
        """
        import time
        import pyarrow as pa
        from zerrow_store import memory
        from zerrow_store.native import _native
        memory.start()
        values = list(range(1_000_000))
        pa.array(values)  # what is done once
        before = _native.arena_stats()["live"]
        _native.hold_back(30.0)
        start = time.monotonic()
        array = pa.array(values)  # with the GIL throughout
        assert time.monotonic() - start < 30
        assert _native.arena_stats()["live"] - before >= 8_000_000 and len(array) == len(values)
        """
    )


# Long because what a process of its own does is a text in it.
def test_the_arena_serves_others_while_the_page_map_is_read(slow_page_map: dict[str, str]) -> None:
    run_python(
        """
        import os, threading, time
        import numpy as np
        from pathlib import Path
        from zerrow_store import memory
        from zerrow_store.native import _native
        memory.start()
        probe = _native.ArenaProbe
        there, go = (Path(os.environ["ZERROW_TEST_" + name]) for name in ("THERE", "GO"))
        array = np.ones(1 << 20)
        offset, _ = probe.find(array.ctypes.data, 1)
        assert probe.pin(offset)
        pinned = []
        again = threading.Thread(target=lambda: pinned.append(probe.pin(offset)), daemon=True)
        again.start()
        while not there.exists(): time.sleep(0.001)
        served = []
        def use():
            address = probe.allocate(1 << 20)
            probe.free(address)
            served.append(address)
        other = threading.Thread(target=use, daemon=True)
        other.start()
        other.join(20)
        assert served and not pinned
        del array  # what is looked at stays where it is
        assert probe.find(_native.ArenaProbe.allocate(1 << 20), 1) != (offset, 1 << 20)
        go.touch()
        again.join()
        assert pinned == [True]
        # And what is found there is right.
        kept, written = np.ones(1 << 20), np.ones(1 << 20)
        for each in kept, written:
            assert probe.pin(probe.find(each.ctypes.data, 1)[0])
        written[-1] = 2
        assert probe.pin(probe.find(kept.ctypes.data, 1)[0])
        assert not probe.pin(probe.find(written.ctypes.data, 1)[0])
        """,
        **slow_page_map,
    )
