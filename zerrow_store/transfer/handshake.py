"""The handshake: two ends prove to each other that they know the secret, without sending it.

    receiver -> sender    magic, nonce
    sender -> receiver    nonce, proof
    receiver -> sender    proof

A proof is an HMAC of both nonces under the secret, with a different label for each end. So it is
valid for this connection only, and one end's proof cannot be replayed as the other's. The keys that
sign all later messages (see `channel`) are derived from the same nonces, so nobody in between can
take over a connection after the handshake. With TLS, the proof covers the listener's certificate.
"""

import hashlib
import hmac
import os
from collections.abc import Callable
from dataclasses import dataclass

from zerrow_store.errors import ProtocolError

_MAGIC = b"zerrow transfer\x01"
_NONCE_BYTES = 32
_PROOF_BYTES = hashlib.sha256().digest_size

Write = Callable[[bytes], None]
Read = Callable[[int], bytes]


@dataclass(frozen=True)
class Keys:
    """The keys that sign this end's messages, and the other end's."""

    own: bytes
    others: bytes


def connect(write: Write, read: Read, secret: bytes, certificate: bytes = b"") -> Keys:
    """Do the handshake as the end that connected. certificate: the listener's, with TLS.

    Raises ProtocolError if the other end does not know the secret.
    """
    nonce = os.urandom(_NONCE_BYTES)
    write(_MAGIC + nonce)
    derived = _Derived(secret, nonce, read(_NONCE_BYTES), certificate)
    if not hmac.compare_digest(read(_PROOF_BYTES), derived.key(b"listener's proof")):
        raise ProtocolError("the other end does not know the secret")
    write(derived.key(b"connector's proof"))
    return Keys(derived.key(b"connector's messages"), derived.key(b"listener's messages"))


def accept(write: Write, read: Read, secret: bytes, certificate: bytes = b"") -> Keys:
    """Do the handshake as the end that listens. certificate: its own, with TLS.

    Raises ProtocolError if the other end does not know the secret.
    """
    if read(len(_MAGIC)) != _MAGIC:
        raise ProtocolError("the other end speaks another protocol or version")
    others, nonce = read(_NONCE_BYTES), os.urandom(_NONCE_BYTES)
    derived = _Derived(secret, others, nonce, certificate)
    write(nonce + derived.key(b"listener's proof"))
    if not hmac.compare_digest(read(_PROOF_BYTES), derived.key(b"connector's proof")):
        raise ProtocolError("the other end does not know the secret")
    return Keys(derived.key(b"listener's messages"), derived.key(b"connector's messages"))


class _Derived:
    def __init__(self, secret: bytes, first: bytes, second: bytes, certificate: bytes) -> None:
        self._secret = secret
        self._known = first + second + hashlib.sha256(certificate).digest()

    def key(self, label: bytes) -> bytes:
        return hmac.digest(self._secret, self._known + label, "sha256")
