"""TLS, with certificates at both ends."""

import pytest

from tests.helpers.capabilities import needs_openssl
from tests.helpers.certificates import Authority
from tests.helpers.data import MIB, table_of
from tests.helpers.machines import SECURITY
from tests.helpers.waiting import wait_until
from zerrow_store.errors import ObjectLostError, ProtocolError
from zerrow_store.transfer.channel import connect
from zerrow_store.transfer.security import Security, Tls

pytestmark = needs_openssl


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path / "ours")


def secured(tls: Tls | None) -> Security:
    return Security(secret=SECURITY.secret, tls=tls)


@pytest.mark.parametrize("size", [8, MIB, 40 * MIB])
def test_bytes_are_right(machine, authority, link, size):
    there = machine(secured(authority.issue("there")))
    here = machine(secured(authority.issue("here")))
    seen: list[bytes] = []

    def change(piece: bytes) -> bytes:
        seen.append(piece)
        return piece

    wanted = there.publish(table_of(size, 0x5A65726F))
    way = link(there.serve(), change=change)
    assert here.fetch(way.location, wanted).equals(table_of(size, 0x5A65726F))
    # The first word, as it would be on the wire.
    assert (0x5A65726F).to_bytes(8, "little") not in b"".join(seen)
    wait_until(here.is_empty)


def test_bytes_that_change_on_the_way_are_noticed(machine, authority, link):
    there = machine(secured(authority.issue("there")))
    here = machine(secured(authority.issue("here")))
    wanted = there.publish(table_of(8 * MIB))

    def change(piece: bytes) -> bytes:
        return (
            piece[:5000] + bytes([piece[5000] ^ 1]) + piece[5001:] if len(piece) > 9999 else piece
        )

    with pytest.raises(ObjectLostError):
        here.fetch(link(there.serve(), change=change).location, wanted)
    wait_until(here.is_empty)
    assert here.fetch(there.serve(), wanted).equals(table_of(8 * MIB))


def test_who_is_refused(machine, authority, tmp_path):
    there = machine(secured(authority.issue("there")))
    location = there.serve()
    strangers = Authority(tmp_path / "strangers")
    signed_by_others = strangers.issue("stranger")
    trusting = Tls(
        certificate=signed_by_others.certificate,
        key=signed_by_others.key,
        authority=authority.certificate,
    )
    right = secured(authority.issue("here"))
    connect(location, right).close()
    for refused in [
        SECURITY,  # no TLS
        secured(signed_by_others),  # it does not trust the listener
        secured(trusting),  # nor the listener it
        Security(secret=b"another cluster's secret", tls=right.tls),
    ]:
        with pytest.raises((OSError, ProtocolError)):
            connect(location, refused)
    connect(location, right).close()


def test_a_listener_that_is_refused(machine, authority):
    plain = machine()
    right = secured(authority.issue("here"))
    with pytest.raises(OSError, match=r"SSL|TLS|reset|EOF"):
        connect(plain.serve(), right)
    elsewhere = machine(secured(authority.issue("elsewhere", "127.0.0.2")))
    with pytest.raises(OSError, match="IP address mismatch"):
        connect(elsewhere.serve(), right)
