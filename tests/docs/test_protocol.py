"""`docs/protocol.md` is what its generator makes of the message types."""

import importlib.util
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import msgspec
import pytest

from tests.helpers.pages import ROOT
from zerrow_store import protocol


@pytest.fixture
def generator() -> ModuleType:
    path = ROOT / "tools" / "protocol_page.py"
    spec = importlib.util.spec_from_file_location("protocol_page", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_of_this_schema(generator: ModuleType) -> None:
    page: str = generator.PAGE.read_text()
    assert page == generator.render(), "run `python tools/protocol_page.py`, and commit the page"


def messages(base: type = msgspec.Struct) -> Iterator[Any]:
    """Yield all messages that have a kind."""
    for cls in base.__subclasses__():
        if cls.__module__.startswith(protocol.__name__) and "kind" in vars(cls):
            yield cls
        yield from messages(cls)


def test_the_page_has_every_message_with_every_field(generator: ModuleType) -> None:
    generator.render()  # which imports all of them
    page = generator.PAGE.read_text()
    sections = {part.partition("`")[0]: part for part in page.replace("## ", "### ").split("### `")}
    found = list(messages())
    assert {"hello", "put", "freed"} <= {message.kind for message in found}
    for message in found:
        section = sections[message.kind].partition("\n### ")[0]
        listed = [line.split("`")[1] for line in section.splitlines() if line.startswith("| `")]
        assert listed == list(message.__struct_fields__), message.kind
