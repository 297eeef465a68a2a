"""Settings of KernelZero, and what is said where it cannot be used."""

import errno
import os

import pytest

from tests.helpers.python import run_python
from zerrow_store.cli.doctor import examine
from zerrow_store.config import MemoryConfig
from zerrow_store.memory import kernelzero
from zerrow_store.native import _native

DEBIAN, OTHER = "6.1.0-1-amd64", "6.18.44"


def error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize("mode", ["auto", "on", "off"])
def test_modes(mode: str) -> None:
    assert (
        MemoryConfig.from_environment({"ZERROW_KERNELZERO": f" {mode.upper()} "}).kernelzero == mode
    )


def test_auto_is_the_default() -> None:
    assert MemoryConfig.from_environment({}).kernelzero == "auto"


def test_what_is_no_mode() -> None:
    with pytest.raises(ValueError, match="ZERROW_KERNELZERO: 'yes' is not auto, on or off"):
        MemoryConfig.from_environment({"ZERROW_KERNELZERO": "yes"})


@pytest.mark.parametrize(
    ("number", "kernel", "loaded", "finding"),
    [
        (errno.ENOENT, DEBIAN, False, "no module is loaded (modprobe"),
        (errno.ENOENT, OTHER, False, "no module is loaded. Linux 6.18.44 is not tested"),
        (errno.ENOENT, "6.10.1", False, "Linux 6.10.1 is not tested"),
        (errno.ENOENT, DEBIAN, True, "the module is loaded, but /dev/kernelzero is missing"),
        (errno.ENXIO, DEBIAN, False, "no module is loaded (modprobe"),
        (errno.EACCES, DEBIAN, True, "add the user to group `kernelzero`"),
        (errno.ENOTTY, DEBIAN, True, "unsupported version"),
        (errno.ENOSYS, DEBIAN, True, "unsupported version"),
        (errno.EMFILE, DEBIAN, True, "Too many open files"),
    ],
)
def test_why_it_cannot_be_used(
    monkeypatch, tmp_path, number: int, kernel: str, loaded: bool, finding: str
) -> None:
    monkeypatch.setattr(kernelzero, "_MODULE", tmp_path if loaded else tmp_path / "none")
    assert finding in kernelzero.explain(error(number), kernel)


def test_where_there_is_none(monkeypatch) -> None:
    if kernelzero.probe().available:
        pytest.skip("there is one")
    assert not kernelzero.wanted("auto")
    assert not kernelzero.wanted("off")
    with pytest.raises(kernelzero.KernelZeroError, match="ZERROW_KERNELZERO=on: no module"):
        kernelzero.wanted("on")
    (check,) = [check for check in examine() if check.name == "kernelzero"]
    assert not check.ok
    assert not check.needed
    assert "copied once" in check.finding


def test_where_there_is_one(monkeypatch) -> None:
    monkeypatch.setattr(_native, "kernelzero_version", lambda: 7)
    assert kernelzero.wanted("on")
    assert kernelzero.wanted("auto")
    assert not kernelzero.wanted("off")
    (check,) = [check for check in examine() if check.name == "kernelzero"]
    assert check.ok
    assert check.finding.startswith("available: version 7, Linux ")


def test_on_is_an_error_without_one() -> None:
    if kernelzero.probe().available:
        pytest.skip("there is one")
    run_python(
        """
        import pytest
        from zerrow_store import errors, memory
        with pytest.raises(errors.KernelZeroError, match="ZERROW_KERNELZERO=on"):
            memory.start()
        """,
        ZERROW_KERNELZERO="on",
    )
