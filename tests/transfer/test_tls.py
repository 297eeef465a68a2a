"""TLS, with certificates at both ends."""

import subprocess
from pathlib import Path

import pytest

from tests.capabilities import needs_openssl
from tests.node.helpers import wait_until
from tests.transfer.helpers import MIB, SECURITY, table
from zerrow_store.errors import ObjectLostError, ProtocolError
from zerrow_store.transfer.channel import connect
from zerrow_store.transfer.security import Security, Tls

pytestmark = needs_openssl


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


class Authority:
    """One that signs certificates."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        self.certificate = str(folder / "authority.pem")
        self._key = str(folder / "authority.key")
        self._request(self._key, self.certificate, "-x509", "-subj", "/CN=authority")

    def issue(self, name: str, *addresses: str) -> Tls:
        """Return what a machine of these addresses has, by default of 127.0.0.1."""
        key, request, certificate = (str(self._folder / f"{name}.{e}") for e in ("key", "r", "pem"))
        extensions = self._folder / f"{name}.ext"
        names = ",".join(f"IP:{address}" for address in addresses or ["127.0.0.1"])
        extensions.write_text(f"subjectAltName={names}\n")
        self._request(key, request, "-subj", f"/CN={name}")
        signed = ["-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial", "-days", "1"]
        signed += ["-extfile", str(extensions), "-out", certificate]
        openssl("x509", "-req", "-in", request, *signed)
        return Tls(certificate=certificate, key=key, authority=self.certificate)

    def _request(self, key: str, out: str, *more: str) -> None:
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        openssl("req", *curve, "-keyout", key, "-out", out, *more)


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

    wanted = there.publish(table(size, 0x5A65726F))
    way = link(there.serve(), change=change)
    assert here.fetch(way.location, wanted).equals(table(size, 0x5A65726F))
    # The first word, as it would be on the wire.
    assert (0x5A65726F).to_bytes(8, "little") not in b"".join(seen)
    wait_until(here.is_empty)


def test_bytes_that_change_on_the_way_are_noticed(machine, authority, link):
    there = machine(secured(authority.issue("there")))
    here = machine(secured(authority.issue("here")))
    wanted = there.publish(table(8 * MIB))

    def change(piece: bytes) -> bytes:
        return (
            piece[:5000] + bytes([piece[5000] ^ 1]) + piece[5001:] if len(piece) > 9999 else piece
        )

    with pytest.raises(ObjectLostError):
        here.fetch(link(there.serve(), change=change).location, wanted)
    wait_until(here.is_empty)
    assert here.fetch(there.serve(), wanted).equals(table(8 * MIB))


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
