"""Certificates for the machines of a test, made by openssl."""

import os
import subprocess
from pathlib import Path

import ray

from zerrow_store.transfer.security import Tls


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


def with_tls(folder: Path) -> dict[str, str]:
    """The environment of a Ray of this machine that uses TLS, with a certificate of its own."""
    addresses = {"127.0.0.1", ray.util.get_node_ip_address()}
    tls = Authority(folder).issue("node", *addresses)
    return os.environ | {
        "RAY_USE_TLS": "1",
        "RAY_TLS_SERVER_CERT": tls.certificate,
        "RAY_TLS_SERVER_KEY": tls.key,
        "RAY_TLS_CA_CERT": tls.authority,
    }
