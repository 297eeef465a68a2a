"""Debian 11's package of its kernel, Linux 5.10: the oldest that the store is for.

The host's apt need not know Debian 11, and is left as it is: apt runs with sources and lists of its
own and without the host's hooks, as an ordinary user too.
"""

import re
import subprocess
import tempfile
from pathlib import Path

SITES = ("http://deb.debian.org", "http://archive.debian.org")  # Debian 11 moves to the second
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
IMAGE = re.compile(r"linux-image-5\.10\.0-(\d+)-amd64$")
# An archive is no longer signed anew.
SOURCES = """\
deb [signed-by={keys} check-valid-until=no] {site}/debian bullseye main
deb [signed-by={keys} check-valid-until=no] {site}/debian-security bullseye-security main
"""
CONFIGURATION = """\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Sandbox::User "root";
Dir::Cache "{apt}/cache";
Dir::Etc::SourceList "{apt}/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State::Lists "{apt}/lists";
Dir::State::Status "/dev/null";
"""


class UnavailableError(Exception):
    """The kernel cannot be had; the message says what apt said."""


def image(cache: Path) -> Path:
    """Return the package in the cache; if there is none, download the newest."""
    cache.mkdir(parents=True, exist_ok=True)
    found = sorted(cache.glob("linux-image-*.deb"))
    return found[-1] if found else _download(cache)


def _download(cache: Path) -> Path:
    with tempfile.TemporaryDirectory(dir=cache) as directory:
        apt = Path(directory)
        for name in ("cache/archives/partial", "lists/partial"):
            (apt / name).mkdir(parents=True)
        sources = "".join(SOURCES.format(keys=KEYS, site=site) for site in SITES)
        (apt / "sources.list").write_text(sources)
        (apt / "apt.conf").write_text(CONFIGURATION.format(apt=apt))
        # One of the sites may not have it: what counts is what is known afterwards.
        said = _apt("get", apt, "-qq", "update")
        names = _apt("cache", apt, "pkgnames", "linux-image-5.10").split()
        numbers = [int(match[1]) for name in names if (match := IMAGE.match(name))]
        if numbers:
            said = _apt("get", apt, "-qq", "download", f"linux-image-5.10.0-{max(numbers)}-amd64")
        for package in apt.glob("linux-image-*.deb"):
            return package.rename(cache / package.name)
    raise UnavailableError(
        f"Debian 11's Linux 5.10 cannot be had from {' or '.join(SITES)}\n{said}"
    )


def _apt(program: str, apt: Path, *arguments: str) -> str:
    command = ("nice", "-n", "10", f"apt-{program}", "-c", apt / "apt.conf", *arguments)
    done = subprocess.run(
        command, cwd=apt, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return done.stdout
