"""Requests to the transfer agent of this machine.

The first request starts the agent, unless it is the store's companion. A process that has bound the
agent's listening socket is about to become the agent, or to start it. So there is only one, and
processes that connect in the meantime wait until it serves.
"""

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec

from zerrow_store import forks
from zerrow_store.client.client import Client
from zerrow_store.client.holds import Hold
from zerrow_store.errors import ObjectLostError, ObjectNotFoundError, StoreUnavailableError
from zerrow_store.protocol import sockets
from zerrow_store.protocol.places import Place
from zerrow_store.protocol.sockets import transfer_address
from zerrow_store.protocol.wire_errors import make_error
from zerrow_store.transfer import messages as m
from zerrow_store.transfer.channel import Channel
from zerrow_store.transfer.connections import IdleConnections
from zerrow_store.transfer.security import Security

logger = logging.getLogger("zerrow_store")

T = TypeVar("T")

_ATTEMPTS = 3
_PATIENCE_SECONDS = 15.0
_PAUSE_SECONDS = 0.02
_BACKLOG = 512

_agents = IdleConnections()
"""Connections to agents, by the name of the store."""

forks.register(in_child=_agents.forget)


def serve(store: str, security: Security, host: str) -> str:
    """Have the store's objects served to other machines on the address `host`; return the location.

    Starts the agent, with `security`, if there is none. Raises StoreUnavailableError.
    """

    def ask(channel: Channel) -> str:
        reply = _ask(channel, m.Serve(host))
        assert isinstance(reply, m.Serving)
        return reply.location

    return _with_agent(store, security, ask)


def fetch(
    client: Client,
    security: Security | None,
    location: str,
    object_id: bytes,
    allocations: list[m.Allocation],
) -> tuple[list[Place], Hold]:
    """Land another machine's object in the store of `client`, once for all that ask for it.

    security: what an agent is started with; None if the store's companion is the agent. location:
    where the other machine's agent serves; empty if that machine is gone and a copy is to be found.
    allocations: as in the object's message. Returns where each of them lies here, in mapped memory,
    and the hold that keeps the object there.
    Raises ObjectLostError if the other machine is gone or does not have the object, StoreFullError
    if it does not fit here, StoreUnavailableError.
    """

    def ask(channel: Channel) -> tuple[list[Place], Hold]:
        reply = _ask(channel, m.Fetch(location, object_id, allocations))
        assert isinstance(reply, m.Landed)
        try:
            hold = client.hold(reply.object_id)  # before the agent lets go of it
        except ObjectNotFoundError as error:
            raise ObjectLostError("the store has lost an object while it landed") from error
        return reply.places, hold

    landed, hold = _with_agent(client.name, security, ask)
    places = [hold.moved.get((segment, offset), (segment, offset)) for segment, offset in landed]
    client.ensure_places(places, hold)
    return places, hold


def _ask(channel: Channel, message: m.Message) -> m.Serving | m.Landed:
    channel.send(message)
    reply = channel.receive(m.REPLY)
    if isinstance(reply, m.Failed):
        name, arguments = reply.error
        raise make_error(name, arguments)
    return reply


def _with_agent(store: str, security: Security | None, ask: Callable[[Channel], T]) -> T:
    """Ask the agent. If it ends before it answers, ask the next one."""
    reason = ""
    for _ in range(_ATTEMPTS):
        try:
            channel = _agents.idle(store) or Channel(_connect(store, security))
            try:
                answer = ask(channel)
            except BaseException:
                channel.close()
                raise
            _keep(store, channel)
            return answer
        except OSError as error:
            reason = str(error)  # the error itself refers to the frames of all callers
            logger.warning("the transfer agent of the store %s has gone: %s", store, reason)
    raise StoreUnavailableError(
        f"the transfer agent of the store {store!r} does not answer: {reason}; its log lies beside "
        "the store's"
    )


def _keep(store: str, channel: Channel) -> None:
    """Keep a connection for the next request. The agent may drop what it holds for this one."""
    try:
        channel.send(m.Taken())
    except OSError:
        channel.close()
    else:
        _agents.give_back(store, channel)


def _connect(store: str, security: Security | None) -> socket.socket:
    """Connect to the agent. If there is none, start one, or wait for another process to do so.

    Raises OSError if neither works.
    """
    impatient = time.monotonic() + _PATIENCE_SECONDS
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(transfer_address(store))
            if sockets.peer(connection)[1] != os.getuid():
                raise OSError("it belongs to another user")
            return connection
        except ConnectionRefusedError:
            connection.close()
            if time.monotonic() > impatient:
                raise
        except BaseException:
            connection.close()
            raise
        if security is None or not _start(store, security):
            time.sleep(_PAUSE_SECONDS)  # the process that starts the agent is about to listen


def _start(store: str, security: Security) -> bool:
    """Start an agent; return False if another process is doing so. Raises OSError on failure."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            listener.bind(transfer_address(store))
        except OSError:
            return False
        listener.listen(_BACKLOG)
        command = [sys.executable, "-m", "zerrow_store.transfer.agent", "--store", store]
        command += ["--listener-fd", str(listener.fileno())]
        started = subprocess.run(
            command,
            input=msgspec.msgpack.encode(security),  # not as an argument, which others can see
            pass_fds=[listener.fileno()],
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            check=False,
        )
        if started.returncode:
            raise OSError(f"it ended with exit code {started.returncode}")
        return True
