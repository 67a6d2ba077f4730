"""Who is connected: one peer a process, across its reconnections.

A peer is known by its role and by the `instance` of its Hello, so that an actor that comes back on a new socket keeps
its leases, while one that was restarted under the same name does not inherit them. Silence is counted in time that the
gateway could hear (`learner.gateway.hearing`), so that one that stood still hears its peers out first.
"""

from __future__ import annotations

import dataclasses
import logging
from contextlib import AbstractContextManager, nullcontext

from lamer.common.codec import CodecError, encode_message
from lamer.common.liveness.guard import surviving
from lamer.common.messages import MAX_NAME, PROTOCOL_VERSION, AnyMessage, Hello, Role, name_problem
from lamer.common.text import one_line
from lamer.common.transport import RouterEndpoint
from lamer.common.weights import ModelFingerprint

log = logging.getLogger("lamer.gateway")

_LONGEST_DIFFERENCE = 500


@dataclasses.dataclass(slots=True, eq=False)
class Peer:
    """One connected process.

    identity: its routing id on the socket at this time. silent_seconds: since it was heard. is_reachable: whether the
    last message to it could be sent.
    """

    key: str
    identity: bytes
    hello: Hello
    silent_seconds: float = 0.0
    is_reachable: bool = True

    @property
    def role(self) -> Role:
        """What the process is."""
        return self.hello.role


@dataclasses.dataclass(frozen=True, slots=True)
class Expectation:
    """What a Hello must agree with."""

    run: str
    config_hash: str
    fingerprint: ModelFingerprint | None

    def refusal(self, hello: Hello) -> str:
        """Why a Hello is refused, "" if it is not."""
        if problem := name_problem(hello.name):
            return problem
        if len(hello.instance) > MAX_NAME:
            return f"the instance of {hello.name} has {len(hello.instance)} characters, at most {MAX_NAME} are taken"
        if not hello.protocol_min <= PROTOCOL_VERSION <= hello.protocol_max:
            return (
                f"this learner speaks protocol {PROTOCOL_VERSION}, {hello.name} speaks {hello.protocol_min} to "
                f"{hello.protocol_max}: install the same version of lamer on both"
            )
        for name, theirs, ours in (
            ("run", hello.run, self.run),
            ("config hash", hello.config_hash, self.config_hash),
        ):
            if theirs and ours and theirs != ours:
                return f"{hello.name} expects {name} {one_line(theirs, MAX_NAME)}, this learner has {ours}"
        if hello.fingerprint is not None and self.fingerprint is not None:
            difference = self.fingerprint.difference(hello.fingerprint)
            if difference:
                shown = one_line(difference, _LONGEST_DIFFERENCE)
                return f"the model of {hello.name} is another one than the run's: {shown}"
        if hello.role is Role.ACTOR and hello.capacity < 1:
            return f"an actor runs at least one trial at once, {hello.name} offers {hello.capacity}"
        return ""


class PeerTable:
    """Every peer, by socket and by key."""

    def __init__(self) -> None:
        self._by_identity: dict[bytes, Peer] = {}
        self._by_key: dict[str, Peer] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def welcome(self, identity: bytes, hello: Hello) -> Peer:
        """Note a Hello: a new peer, or a known one on a new socket."""
        key = f"{hello.role.value}:{hello.instance or identity.hex()}"
        peer = self._by_key.get(key)
        if peer is None:
            peer = Peer(key, identity, hello)
            self._by_key[key] = peer
        self._by_identity.pop(peer.identity, None)
        self._by_identity[identity] = peer
        peer.identity, peer.hello, peer.silent_seconds, peer.is_reachable = identity, hello, 0.0, True
        return peer

    def heard(self, identity: bytes) -> Peer | None:
        """The peer behind a socket, which spoke just now; None before its Hello."""
        peer = self._by_identity.get(identity)
        if peer is not None:
            peer.silent_seconds = 0.0
        return peer

    def behind(self, identity: bytes) -> Peer | None:
        """The peer behind a socket, whether or not it just spoke; None before its Hello."""
        return self._by_identity.get(identity)

    def surviving(self, identity: bytes, message: AnyMessage) -> AbstractContextManager[None]:
        """While inside, no message ends the gateway, but for the trainer's: without what it says the run would stand
        still.
        """
        peer = self.behind(identity)
        if peer is not None and peer.role is Role.TRAINER:
            return nullcontext()
        return surviving(log, message, "a newcomer" if peer is None else f"{peer.role.value} {peer.hello.name}")

    def get(self, key: str) -> Peer | None:
        """A connected peer by its key."""
        return self._by_key.get(key)

    def of_role(self, role: Role) -> tuple[Peer, ...]:
        """The connected peers of a role, in the order of their first Hello."""
        return tuple(peer for peer in self._by_key.values() if peer.role is role)

    def all(self) -> tuple[Peer, ...]:
        """Every connected peer."""
        return tuple(self._by_key.values())

    def remove(self, peer: Peer) -> None:
        """Forget a peer that left or died."""
        if self._by_identity.get(peer.identity) is peer:
            del self._by_identity[peer.identity]
        self._by_key.pop(peer.key, None)

    def age(self, seconds: float, dead_after: float) -> tuple[Peer, ...]:
        """Count `seconds` of silence for every peer; those silent for `dead_after` or longer, still in the table."""
        for peer in self._by_key.values():
            peer.silent_seconds += seconds
        return tuple(peer for peer in self._by_key.values() if peer.silent_seconds >= dead_after)


class Link:
    """How the gateway's parts talk to peers: encodes once a receiver, never waits."""

    def __init__(self, router: RouterEndpoint, peers: PeerTable, dead_after: float, grace: float) -> None:
        """grace: seconds that a peer whose connection broke has left to come back before it counts as dead."""
        self._router = router
        self._peers = peers
        self._silence = max(dead_after - grace, 0.0)

    def send(self, peer: Peer, message: AnyMessage) -> None:
        """Send to one peer. One that can't be reached is soon taken for dead unless it comes back. A message that is
        too big, which others made so by what they said, is given up.
        """
        try:
            data = encode_message(message)
        except CodecError as error:
            log.error("%s %s is not told: %s", peer.role.value, peer.hello.name, error)
            return
        peer.is_reachable = self._router.send(peer.identity, data)
        if not peer.is_reachable:
            peer.silent_seconds = max(peer.silent_seconds, self._silence)

    def broadcast(self, message: AnyMessage, role: Role | None = None) -> None:
        """Send to every peer, or to every peer of a role."""
        for peer in self._peers.all() if role is None else self._peers.of_role(role):
            self.send(peer, message)
