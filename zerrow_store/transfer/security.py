"""The security of connections between machines."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from zerrow_store.errors import ProtocolError

_LEAST_SECRET = 16


@dataclass(frozen=True, kw_only=True)
class Tls:
    """Paths of PEM files: this machine's certificate and key, and the authority that signs the
    certificates of all machines. A certificate names the address of its machine.
    """

    certificate: str
    key: str
    authority: str

    def server_context(self) -> ssl.SSLContext:
        """Return the context of the listening end. Raises OSError for unusable files."""
        return self._complete(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))

    def client_context(self) -> ssl.SSLContext:
        """Return the context of the connecting end. Raises OSError for unusable files."""
        return self._complete(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))

    def own_certificate(self) -> bytes:
        """Return the certificate in DER, as the other end sees it."""
        pem = Path(self.certificate).read_text()
        end = "-----END CERTIFICATE-----"  # the issuers' certificates follow
        start = pem.index("-----BEGIN CERTIFICATE-----")
        return ssl.PEM_cert_to_DER_cert(pem[start : pem.index(end) + len(end)])

    def _complete(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(self.certificate, self.key)
        context.load_verify_locations(self.authority)
        context.verify_mode = ssl.CERT_REQUIRED
        return context


@dataclass(frozen=True, kw_only=True)
class Security:
    """secret: known to all machines of the cluster. tls: None for unencrypted connections."""

    secret: bytes = field(repr=False)
    tls: Tls | None = None

    def __post_init__(self) -> None:
        if len(self.secret) < _LEAST_SECRET:
            raise ProtocolError(f"a secret has at least {_LEAST_SECRET} bytes")
