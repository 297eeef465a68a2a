"""`docs/protocol.md` is what its generator makes of the message types."""

import importlib.util
from types import ModuleType

import pytest

from tests.docs.pages import ROOT
from zerrow_store.protocol import messages


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


def test_the_page_has_every_message_with_every_field() -> None:
    page = (ROOT / "docs" / "protocol.md").read_text()
    sections = {
        part.partition("`")[0]: part for part in page.replace("## Types", "### `").split("### `")
    }
    for message in [*messages.REQUESTS.values(), *messages.NOTICES.values()]:
        section = sections[message.kind]
        listed = [line.split("`")[1] for line in section.splitlines() if line.startswith("| `")]
        assert listed == list(message.__struct_fields__), message.kind
