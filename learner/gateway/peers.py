"""Who is connected: one peer a process, across its reconnections.

A peer is known by its key, its role and the `instance` of its Hello, so that an actor that comes back on a new socket
keeps its leases, while one that was restarted under the same name does not inherit them. Of two processes of one name,
role and key the one that came later stays; the other is *fenced*: told, and refused if it comes back. Silence is
counted in time that the gateway could hear (`learner.gateway.hearing`): one that stood still hears its peers out first.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import deque
from contextlib import AbstractContextManager, nullcontext

from lamer.common.codec import CodecError, encode_message
from lamer.common.keys import Client, described
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

    client: whose key it has. identity: its routing id on the socket at this time. silent_seconds: since it was heard.
    is_reachable: whether the last message to it could be sent.
    """

    key: str
    client: Client
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

    def refusal(self, hello: Hello, client: Client) -> str:
        """Why a Hello from whoever has this client's key is refused, "" if it is not."""
        if problem := name_problem(hello.name):
            return problem
        if len(hello.instance) > MAX_NAME:
            return f"the instance of {hello.name} has {len(hello.instance)} characters, at most {MAX_NAME} are taken"
        if hello.role is not client.role:
            return (
                f"{hello.name} says that it is {described(hello.role)}, but its key, {client.name}, is "
                f"{described(client.role)}'s: make one for it on the learner (lamer keys create --role "
                f"{hello.role.value} NAME)"
            )
        if not hello.protocol_min <= PROTOCOL_VERSION <= hello.protocol_max:
            lowest, highest = hello.protocol_min, hello.protocol_max
            theirs = f"{lowest}" if lowest == highest else f"{lowest} to {highest}"
            return (
                f"this learner speaks protocol {PROTOCOL_VERSION}, {hello.name} speaks {theirs}: install the same "
                "version of lamer on both"
            )
        for name, wanted, ours in (
            ("run", hello.run, self.run),
            ("config hash", hello.config_hash, self.config_hash),
        ):
            if wanted and ours and wanted != ours:
                return f"{hello.name} expects {name} {one_line(wanted, MAX_NAME)}, this learner has {ours}"
        if hello.fingerprint is not None and self.fingerprint is not None:
            difference = self.fingerprint.difference(hello.fingerprint)
            if difference:
                shown = one_line(difference, _LONGEST_DIFFERENCE)
                return f"the model of {hello.name} is another one than the run's: {shown}"
        if hello.role is Role.ACTOR and hello.capacity < 1:
            return f"an actor runs at least one trial at once, {hello.name} offers {hello.capacity}"
        return ""


_FENCED = 1000
"""How many fenced processes are remembered: each of them was told to end."""


def _key_of(identity: bytes, hello: Hello, client: Client) -> str:
    return f"{client.role.value}:{client.name}:{hello.instance or identity.hex()}"


class PeerTable:
    """Every peer, by socket and by key."""

    def __init__(self) -> None:
        self._by_identity: dict[bytes, Peer] = {}
        self._by_key: dict[str, Peer] = {}
        self._fenced: deque[str] = deque(maxlen=_FENCED)

    def __len__(self) -> int:
        return len(self._by_key)

    def welcome(self, identity: bytes, hello: Hello, client: Client) -> Peer:
        """Note a Hello: a new peer, or a known one on a new socket."""
        key = _key_of(identity, hello, client)
        peer = self._by_key.get(key)
        if peer is None:
            peer = Peer(key, client, identity, hello)
            self._by_key[key] = peer
        self._by_identity.pop(peer.identity, None)
        self._by_identity[identity] = peer
        peer.identity, peer.hello, peer.silent_seconds, peer.is_reachable = identity, hello, 0.0, True
        return peer

    def is_of(self, peer: Peer, identity: bytes, hello: Hello, client: Client) -> bool:
        """Whether a Hello comes from this process."""
        return peer.key == _key_of(identity, hello, client)

    def rivals(self, peer: Peer) -> tuple[Peer, ...]:
        """Other processes that have this one's place: its name, role and key; for a trainer, any other one."""
        return tuple(
            other
            for other in self.of_role(peer.role)
            if other is not peer
            and (peer.role is Role.TRAINER or (other.client, other.hello.name) == (peer.client, peer.hello.name))
        )

    def fence(self, peer: Peer) -> None:
        """Forget a peer whose place a newer process has taken, and don't take it back."""
        self.remove(peer)
        self._fenced.append(peer.key)

    def is_fenced(self, identity: bytes, hello: Hello, client: Client) -> bool:
        """Whether a Hello comes from a process whose place a newer one has taken."""
        return _key_of(identity, hello, client) in self._fenced

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
