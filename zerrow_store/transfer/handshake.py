"""Two ends of a connection prove to each other that they know the secret, which is never sent.

    receiver -> sender    magic, nonce
    sender -> receiver    nonce, proof
    receiver -> sender    proof

A proof is an HMAC of both nonces under the secret, each end's with a label of its own: it is good
for this connection alone, and the one end's is not the other's. From the same nonces come the keys
with which each message is signed that follows (`channel`), so nobody between the two can take over
a connection that others have opened. With TLS the listener's certificate is part of what is
proved.
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
    """What this end's messages are signed with, and the other end's."""

    own: bytes
    others: bytes


def connect(write: Write, read: Read, secret: bytes, certificate: bytes = b"") -> Keys:
    """Prove, as the end that connected. certificate: the listener's, with TLS.

    Raises ProtocolError for an end that does not know the secret.
    """
    nonce = os.urandom(_NONCE_BYTES)
    write(_MAGIC + nonce)
    derived = _Derived(secret, nonce, read(_NONCE_BYTES), certificate)
    if not hmac.compare_digest(read(_PROOF_BYTES), derived.key(b"listener's proof")):
        raise ProtocolError("the other end does not know the secret")
    write(derived.key(b"connector's proof"))
    return Keys(derived.key(b"connector's messages"), derived.key(b"listener's messages"))


def accept(write: Write, read: Read, secret: bytes, certificate: bytes = b"") -> Keys:
    """Prove, as the end that listens. certificate: its own, with TLS.

    Raises ProtocolError for an end that does not know the secret.
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
