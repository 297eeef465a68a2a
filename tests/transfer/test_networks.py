"""Over a real link, between two network namespaces, which goes down amid a transfer."""

import os
import subprocess
import time

import pytest

from tests.helpers.capabilities import needs_networks
from tests.helpers.data import MIB
from tests.helpers.python import Worker
from tests.helpers.waiting import wait_until

pytestmark = needs_networks

RATE = "100mbit"
NBYTES = 24 * MIB


class Network:
    """Two machines, each in a namespace of its own; abstract sockets are a namespace's own, too."""

    def __init__(self) -> None:
        self.names = [f"zerrow-{side}-{os.getpid()}" for side in ("a", "b")]
        self._links = [f"zr{side}{os.getpid()}" for side in ("a", "b")]
        for name in self.names:
            ip("netns", "add", name)
        near, far = self._links
        peer = ["type", "veth", "peer", "name", far, "netns", self.names[1]]
        ip("link", "add", near, "netns", self.names[0], *peer)
        for n, (name, link) in enumerate(zip(self.names, self._links, strict=True)):
            ip("-n", name, "addr", "add", f"10.78.78.{n + 1}/24", "dev", link)
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", link, "up")
            limit = ["tbf", "rate", RATE, "burst", "64kb", "latency", "50ms"]
            subprocess.run(["tc", "-n", name, "qdisc", "add", "dev", link, "root", *limit])
        self.there, self.here = (self._worker(name) for name in self.names)

    def set_link(self, state: str) -> None:
        ip("-n", self.names[1], "link", "set", self._links[1], state)

    def received(self) -> int:
        """The bytes that have come over the link."""
        command = ["netns", "exec", self.names[1], "cat"]
        return int(ip(*command, f"/sys/class/net/{self._links[1]}/statistics/rx_bytes"))

    def close(self) -> None:
        for worker in (self.there, self.here):
            worker.do("machine.stop()")
            worker.kill()
        for name in self.names:
            ip("netns", "del", name)

    def _worker(self, name: str) -> Worker:
        worker = Worker("ip", "netns", "exec", name)
        worker.do("""
            from tests.helpers.data import MIB, table_of
            from tests.helpers.machines import SECURITY, Machine, Object, receiver_of
            from zerrow_store.transfer import channel, local
            machine = Machine()
        """)
        return worker


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def network():
    made = Network()
    yield made
    made.close()


def begin(network: Network) -> None:
    """Have a table fetched; return when a part of it has come, and the link is down."""
    location, object_id, message, allocations = network.there.do(f"""
        wanted = machine.publish(table_of({NBYTES}))
        location = local.serve(machine.name, SECURITY, "10.78.78.1")
        (location, wanted.object_id, wanted.message, wanted.allocations)
    """)
    assert location.startswith("10.78.78.1:")
    network.here.do(f"""
        location = {location!r}
        wanted = Object({object_id!r}, {message!r}, {allocations!r})
    """)


@pytest.mark.parametrize("seconds", [1.0, 10.0])
def test_a_link_that_is_down_for_a_while(network, seconds):
    begin(network)
    network.here.start("machine.fetch(location, wanted).equals(table_of(24 * MIB))")
    wait_until(lambda: network.received() > 4 * MIB)
    network.set_link("down")
    received = network.received()
    time.sleep(seconds)
    assert network.received() == received < NBYTES
    network.set_link("up")
    assert network.here.finish() is True


def test_a_link_that_is_down_for_a_minute(network):
    """What was on its way is given up, and can be had as soon as there is a link again."""
    begin(network)
    network.here.start("""
        try:
            machine.fetch(location, wanted)
        except Exception as error:
            outcome = type(error).__name__
        outcome
    """)
    wait_until(lambda: network.received() > 4 * MIB)
    network.set_link("down")
    time.sleep(60.0)
    assert network.here.finish() == "ObjectLostError"
    network.set_link("up")
    assert network.here.do("machine.fetch(location, wanted).equals(table_of(24 * MIB))") is True


def test_a_link_that_is_down_for_good(network):
    begin(network)
    network.here.start("""
        channel.SILENCE_SECONDS = 2
        receiver = receiver_of(machine)
        try:
            receiver.fetch(location, wanted.object_id, wanted.allocations)
        except Exception as error:
            outcome = type(error).__name__
        outcome
    """)
    wait_until(lambda: network.received() > 4 * MIB)
    network.set_link("down")
    assert network.here.finish() == "ObjectLostError"
    wait_until(lambda: network.here.do("machine.is_empty()"))
