"""Settings, and what a user is told about wrong ones."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.python import run_python
from zerrow_store import config
from zerrow_store.config import MemoryConfig, machine_memory
from zerrow_store.sizes import format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("4096B", 4096),
        ("512MB", 512_000_000),
        ("512 mb", 512_000_000),
        ("8GiB", 8 << 30),
        ("8g", 8 << 30),
        ("1.5KiB", 1536),
        ("0.1GB", 100_000_000),
        (" 2TiB ", 2 << 40),
    ],
)
def test_sizes_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "1e9", "8 gallons", "1.5.2MB", "8GiBB", "٣", "."])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{text!r} is not a size")):
        parse_size(text)


@given(st.integers(0, 1 << 50))
def test_formatted_sizes_parse_to_about_the_same(size: int) -> None:
    assert abs(parse_size(format_size(size)) - size) <= max(size * 0.05, 0)


def test_formatted_sizes() -> None:
    sizes = [0, 1023, 1024, 1536, 1048575, 8 << 30, 3 << 40, 5 << 50]
    assert [format_size(size) for size in sizes] == [
        *("0 B", "1023 B", "1 KiB", "1.5 KiB", "1 MiB", "8 GiB", "3 TiB", "5 PiB")
    ]


def test_defaults_follow_the_machine() -> None:
    config = MemoryConfig.from_environment({})
    assert config.arena_capacity == 2 * machine_memory()
    assert config.warm_limit == min(4 << 30, machine_memory() // 8)
    assert config.decay_ms == 5000
    assert config.capture_arrow
    assert config.capture_numpy


def test_settings_from_the_environment() -> None:
    environ = {
        "ZERROW_ARENA_CAPACITY": "1GiB",
        "ZERROW_WARM_LIMIT": "100MB",
        "ZERROW_DECAY_MS": "50",
        "ZERROW_CAPTURE_ARROW": "0",
        "ZERROW_CAPTURE_NUMPY": "Off",
    }
    assert MemoryConfig.from_environment(environ) == MemoryConfig(
        arena_capacity=1 << 30,
        warm_limit=100_000_000,
        decay_ms=50,
        capture_arrow=False,
        capture_numpy=False,
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ZERROW_ARENA_CAPACITY", "lots"),
        ("ZERROW_ARENA_CAPACITY", "1MiB"),
        ("ZERROW_WARM_LIMIT", "-5"),
        ("ZERROW_DECAY_MS", "1s"),
        ("ZERROW_CAPTURE_ARROW", "maybe"),
        ("ZERROW_CAPTURE_NUMPY", "2"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: "):
        MemoryConfig.from_environment({name: value})


def test_each_capture_can_be_switched_off() -> None:
    for name in ("ARROW", "NUMPY"):
        run_python(
            f"""
            import numpy as np, pyarrow as pa
            from zerrow_store import memory
            from zerrow_store.native import _native
            from zerrow_store.memory.buffers import allocate
            on = memory.start()
            assert on == {{"arrow": {name} != "ARROW", "numpy": {name} != "NUMPY"}}
            assert memory.start() == on
            assert _native.ArenaProbe.contains(allocate(1 << 20).address) == on["arrow"]
            assert _native.ArenaProbe.contains(np.ones(1 << 20).ctypes.data) == on["numpy"]
            memory.stop()
            memory.stop()
            assert not any(_native.captured().values())
            """.replace(f"{name} !=", f'"{name}" !='),
            **{f"ZERROW_CAPTURE_{name}": "0"},
        )


@pytest.mark.parametrize("name", ["ARENA_CAPACITY", "WARM_LIMIT", "DECAY_MS"])
def test_a_number_that_does_not_fit_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"ZERROW_{name}: 1{'0' * 24} is too large"):
        MemoryConfig.from_environment({f"ZERROW_{name}": "1" + "0" * 24})


def test_what_stays_warm_is_a_part_of_what_the_cgroup_has(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = iter([1 << 62, 800 << 20])
    monkeypatch.setattr(config, "memory_groups", lambda root: [1, 2])
    monkeypatch.setattr(config, "limit_of", lambda group: next(limits))
    assert MemoryConfig.from_environment({}).warm_limit == 100 << 20


def test_the_arena_of_a_large_machine_is_one_of_many_in_an_address_space(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(config, "machine_memory", lambda: 2 << 40)
    assert (128 << 40) / MemoryConfig.from_environment({}).arena_capacity == 256


def test_an_unknown_pyarrow_is_an_import_error() -> None:
    run_python(
        """
        import sys, types
        fake = types.ModuleType("zerrow_store.native._build_info")
        fake.SO_VERSIONS = ("100", "2601")
        sys.modules["zerrow_store.native._build_info"] = fake
        from zerrow_store import memory
        def load():
            import zerrow_store.native
        for use in (memory.start, load):
            try:
                use()
            except ImportError as error:
                assert "built for pyarrow 1.0, 26.1, but pyarrow " in str(error), error
            else:
                raise AssertionError
            assert "zerrow_store.native._native" not in sys.modules
        """
    )
